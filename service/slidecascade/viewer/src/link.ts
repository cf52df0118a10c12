// The state that an address holds: slide, view, result, and how it is shown.
import type { Look } from "./resultpanel.ts";
import { COLORMAPS, newLook } from "./resultpanel.ts";
import type { Box } from "./wire.ts";

export interface State {
  slide: string | null;
  view: Box | null;
  job: string | null;
  /** The job that is compared with it. */
  other: string | null;
  /** The channels shown, as the server is asked for them; empty: as it shows them by itself. */
  channels: string;
  look: Look;
}

export function toHash({ slide, view, job, other, channels, look }: State): string {
  const parts = new URLSearchParams();
  if (slide) parts.set("slide", slide);
  if (view) parts.set("view", [view.x, view.y, view.width, view.height].join(","));
  if (job) parts.set("job", job);
  if (other) parts.set("other", other);
  if (channels) parts.set("channels", channels);
  for (const name of look.hidden) parts.append("hide", name);
  for (const [name, opacity] of look.layers) if (opacity > 0) parts.append("layer", `${opacity} ${name}`);
  if (look.minimum > 0) parts.set("minimum", String(look.minimum));
  if (look.colorBy) parts.set("color", look.colorBy);
  if (look.letters) parts.set("letters", "1");
  if (!look.outlines) parts.set("outlines", "0");
  if (!look.raster) parts.set("raster", "0");
  if (look.colormap !== COLORMAPS[0]) parts.set("colormap", look.colormap);
  if (look.fill !== null) parts.set("fill", String(look.fill));
  return `#${parts}`;
}

export function fromHash(hash: string): State {
  const parts = new URLSearchParams(hash.slice(1));
  const numbers = (parts.get("view") ?? "").split(",").map(Number);
  const [x, y, width, height] = numbers;
  const isBox = numbers.length === 4 && numbers.every(Number.isFinite);
  const look = newLook();
  look.hidden = new Set(parts.getAll("hide"));
  look.minimum = Number(parts.get("minimum") ?? 0) || 0;
  look.colorBy = parts.get("color") ?? "";
  look.letters = parts.get("letters") === "1";
  look.outlines = parts.get("outlines") !== "0";
  look.raster = parts.get("raster") !== "0";
  look.colormap = COLORMAPS.find((name) => name === parts.get("colormap")) ?? COLORMAPS[0];
  const fill = Number.parseFloat(parts.get("fill") ?? "");
  look.fill = fill >= 0 && fill <= 1 ? fill : null;
  for (const layer of parts.getAll("layer")) {
    const [opacity, ...name] = layer.split(" ");
    look.layers.set(name.join(" "), Math.min(1, Math.max(0, Number(opacity) || 0)));
  }
  return {
    slide: parts.get("slide"),
    job: parts.get("job"),
    other: parts.get("other"),
    channels: parts.get("channels") ?? "",
    view: isBox ? { x: x as number, y: y as number, width: width as number, height: height as number } : null,
    look,
  };
}
