// The channels of a fluorescence slide: which are shown, in what colour and contrast.
import { element, labelled } from "./element.ts";
import { text } from "./texts.ts";
import type { SlideInfo } from "./wire.ts";

/** The server's own colours, in the order of the channels. */
const COLOURS = ["#005aff", "#00dc3c", "#ff2828", "#ff00ff", "#00dcdc", "#ffdc00", "#ff8c00", "#ffffff"];
const MAX_SHOWN = 8;
export const RGB = "red,green,blue";

interface Look {
  name: string;
  index: number;
  isShown: boolean;
  color: string;
  low: number;
  high: number;
}

/** Whether a slide has channels of its own rather than colours. */
export function hasChannels(slide: SlideInfo): boolean {
  return slide.channels.length > 0 && slide.channels.join(",") !== RGB;
}

export class ChannelPanel {
  readonly root = element("section", { class: "panel", hidden: true });
  private looks: Look[] = [];

  constructor(private readonly changed: (channels: string) => void) {}

  /** Offers the channels of a slide; hides itself for slides in colour. `asked` restores what `query` gave. */
  set(slide: SlideInfo | null, asked: string): void {
    this.root.hidden = !slide || !hasChannels(slide);
    this.looks = (slide?.channels ?? []).map((name, index) => ({
      name,
      index,
      isShown: index < MAX_SHOWN,
      color: COLOURS[index % COLOURS.length] as string,
      low: 0,
      high: 1,
    }));
    if (asked) this.restore(asked);
    this.relabel();
  }

  /** The fields in the language chosen. */
  relabel(): void {
    this.root.setAttribute("aria-label", text("channels"));
    this.root.replaceChildren(
      element("h2", {}, text("channels")),
      ...this.looks.map((look) => this.row(look)),
    );
  }

  /** What the server is asked for: index:colour:low:high of each channel that is shown. */
  query(): string {
    return this.looks
      .filter((look) => look.isShown)
      .map(({ index, color, low, high }) => `${index}:${color.slice(1)}:${low}:${high}`)
      .join(",");
  }

  private restore(asked: string): void {
    for (const look of this.looks) look.isShown = false;
    for (const item of asked.split(",")) {
      const [index, color, low, high] = item.split(":");
      const look = this.looks[Number(index)];
      if (look) Object.assign(look, { isShown: true, color: `#${color}`, low: Number(low), high: Number(high) });
    }
  }

  private row(look: Look): HTMLElement {
    const tell = () => {
      if (this.query()) this.changed(this.query());
    };
    const shown = element("input", { type: "checkbox", name: `channel-${look.index}` });
    shown.checked = look.isShown;
    shown.addEventListener("change", () => {
      look.isShown = shown.checked;
      // A picture of no channel is none.
      if (!this.query()) look.isShown = shown.checked = true;
      tell();
    });
    const color = element("input", { type: "color", value: look.color, "aria-label": `${text("colour")}: ${look.name}` });
    color.addEventListener("change", () => {
      look.color = color.value;
      tell();
    });
    const slider = (name: "low" | "high", most: number) => {
      const field = element("input", { type: "range", min: 0, max: most, step: 0.02, value: look[name], "data-limit": name });
      field.addEventListener("change", () => {
        look[name] = Number(field.value);
        if (look.high - look.low < 0.02) look[name] = name === "low" ? look.high - 0.02 : look.low + 0.02;
        look[name] = Number(look[name].toFixed(2));
        field.value = String(look[name]);
        tell();
      });
      return labelled(text(name === "low" ? "darkest" : "brightest"), field);
    };
    return element(
      "fieldset",
      { class: "channel" },
      element("legend", {}, look.name),
      element("label", { class: "check" }, shown, element("span", {}, `${text("show")}: ${look.name}`)),
      color,
      slider("low", 1),
      slider("high", 2),
    );
  }
}
