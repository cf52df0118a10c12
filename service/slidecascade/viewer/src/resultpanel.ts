// What is shown of a result: classes with their numbers, filters, layers with their legends.
import { css, gradient, lettersOf } from "./colors.ts";
import { element, labelled } from "./element.ts";
import type { Cell, Findings } from "./findings.ts";
import { histogram } from "./histogram.ts";
import { numeral, text } from "./texts.ts";
import type { AreaShare, Legend } from "./wire.ts";

export const COLORMAPS = ["viridis", "jet"] as const;
export const BY_CLASS = "";

/** How a result is shown. */
export interface Look {
  hidden: Set<string>;
  minimum: number;
  colorBy: string;
  letters: boolean;
  outlines: boolean;
  raster: boolean;
  colormap: string;
  /** How opaque what is within outlines is, from 0 to 1; null: as is usual for the kind of result. */
  fill: number | null;
  /** Opacity of each heatmap, from 0 to 1. */
  layers: Map<string, number>;
}

export function newLook(): Look {
  return {
    hidden: new Set(),
    minimum: 0,
    colorBy: BY_CLASS,
    letters: false,
    outlines: true,
    raster: true,
    colormap: COLORMAPS[0],
    fill: null,
    layers: new Map(),
  };
}

/** Areas and tiles are looked at as a whole, cells one by one. */
export function defaultFill(kind: string): number {
  return kind === "cells" ? 0 : 0.3;
}

export class ResultPanel {
  readonly root: HTMLElement;
  private readonly body = element("div", {}, element("p", { class: "note" }, text("noResult")));
  private readonly note = element("p", { class: "note", role: "status" });
  private readonly scale = element("div", { class: "measure", hidden: true });
  private readonly inView = new Map<string, HTMLElement>();
  private readonly measure = element("select", { name: "color-by" });
  private look: Look = newLook();

  constructor(private readonly changed: () => void) {
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("result") },
      element("h2", {}, text("result")),
      this.body,
    );
  }

  set(findings: Findings, look: Look): void {
    this.look = look;
    this.inView.clear();
    this.body.replaceChildren(
      this.table(findings),
      ...covered(findings),
      this.note,
      this.filter(),
      labelled(text("colorBy"), this.measure),
      this.scale,
      this.check(text("outlines"), "outlines"),
      this.fill(findings.kind),
      this.check(text("letters"), "letters"),
      ...(findings.job && findings.kind === "cells" && !findings.isRunning ? [this.check(text("raster"), "raster")] : []),
      ...(findings.legends.length ? [this.layers(findings.legends)] : []),
    );
    this.setMeasures([]);
    this.measure.onchange = () => {
      this.look.colorBy = this.measure.value;
      this.changed();
    };
  }

  /** Shows the numbers of what is in view; null: its cells are too many to be fetched. */
  setView(cells: readonly Cell[] | null): void {
    const counted = cells?.filter((cell) => cell.isCounted) ?? [];
    const counts = new Map<string, number>();
    for (const cell of counted) counts.set(cell.className, (counts.get(cell.className) ?? 0) + 1);
    const all = counted.length;
    this.body.dataset["inView"] = String(all);
    for (const [name, place] of this.inView) {
      place.textContent = cells ? `${numeral(counts.get(name) ?? 0)} ${text("of")} ${numeral(all)}` : "–";
    }
    this.note.textContent = cells ? "" : text("zoomForCells");
    if (cells) this.setMeasures([...new Set([...new Set(cells.map((cell) => cell.measureNames))].flat())].sort());
  }

  /** Shows the colours of a measurement from `minimum` to `maximum`; null: colours are those of classes. */
  setScale(range: [number, number] | null, values: readonly number[]): void {
    this.scale.hidden = range === null;
    if (!range) return;
    const ramp = element("span", { class: "ramp" });
    ramp.style.background = gradient();
    this.scale.replaceChildren(
      histogram(values, range),
      element("div", { class: "scale" }, `≤ ${numeral(range[0], 2)}`, ramp, `≥ ${numeral(range[1], 2)}`),
    );
  }

  private setMeasures(names: string[]): void {
    const { colorBy } = this.look;
    if (colorBy !== BY_CLASS && !names.includes(colorBy)) names.push(colorBy);
    this.measure.replaceChildren(
      element("option", { value: BY_CLASS }, text("className")),
      ...names.map((name) => element("option", { value: name }, name)),
    );
    this.measure.value = colorBy;
  }

  private table(findings: Findings): HTMLElement {
    const letters = lettersOf(findings.classes);
    const head = [text("show"), text("className"), text("all"), text("fraction"), text("inView")];
    const rows = findings.classes.map(({ name, color }) => {
      const box = element("input", { type: "checkbox", "aria-label": `${text("show")}: ${name}` });
      box.checked = !this.look.hidden.has(name);
      box.addEventListener("change", () => {
        if (box.checked) this.look.hidden.delete(name);
        else this.look.hidden.add(name);
        this.changed();
      });
      const swatch = element("span", { class: "swatch" }, letters.get(name) ?? "");
      swatch.style.borderColor = css(color);
      const inView = element("td", { class: "number" });
      this.inView.set(name, inView);
      return element(
        "tr",
        { "data-class": name },
        element("td", {}, box),
        element("th", { scope: "row" }, swatch, name),
        element("td", { class: "number" }, numeral(findings.counts[name] ?? 0)),
        element("td", { class: "number" }, fractionOf(findings, name)),
        inView,
      );
    });
    const titles = head.map((title) => element("th", { scope: "col" }, title));
    const table = element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...titles)),
      element("tbody", {}, ...rows),
    );
    return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": text("result") }, table);
  }

  private filter(): HTMLElement {
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: this.look.minimum });
    const shown = element("output", {}, numeral(this.look.minimum, 2));
    slider.addEventListener("input", () => {
      this.look.minimum = Number(slider.value);
      shown.textContent = numeral(this.look.minimum, 2);
      this.changed();
    });
    const field = labelled(text("minimum"), slider);
    field.append(shown);
    return field;
  }

  private fill(kind: string): HTMLElement {
    const value = this.look.fill ?? defaultFill(kind);
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value, name: "fill" });
    slider.addEventListener("input", () => {
      this.look.fill = Number(slider.value);
      this.changed();
    });
    return labelled(text("fill"), slider);
  }

  private check(label: string, name: "letters" | "outlines" | "raster"): HTMLElement {
    const box = element("input", { type: "checkbox", name });
    box.checked = this.look[name];
    box.addEventListener("change", () => {
      this.look[name] = box.checked;
      this.changed();
    });
    return element("label", { class: "check" }, box, element("span", {}, label));
  }

  private layers(legends: Legend[]): HTMLElement {
    const maps = element("select", {}, ...COLORMAPS.map((name) => element("option", { value: name }, name)));
    maps.value = this.look.colormap;
    maps.addEventListener("change", () => {
      this.look.colormap = maps.value;
      this.changed();
    });
    const items = legends.map((legend) => this.layer(legend));
    return element(
      "fieldset",
      {},
      element("legend", {}, text("layers")),
      labelled(text("colormap"), maps),
      ...items,
    );
  }

  private layer(legend: Legend): HTMLElement {
    const value = this.look.layers.get(legend.name) ?? 0;
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value, "data-layer": legend.name });
    slider.addEventListener("input", () => {
      this.look.layers.set(legend.name, Number(slider.value));
      this.changed();
    });
    const ramp = element("span", { class: `ramp ${this.look.colormap}` });
    if (this.look.colormap === COLORMAPS[0]) ramp.style.background = gradient(legend.stops);
    const unit = `${numeral(legend.maximum, 2)} ${legend.unit}`;
    return element(
      "div",
      { class: "layer" },
      labelled(`${legend.title}: ${text("opacity")}`, slider),
      element("div", { class: "scale" }, numeral(legend.minimum, 2), ramp, unit),
    );
  }
}

/** What companion networks measured of the tissue, with what was divided. */
function covered(findings: Findings): HTMLElement[] {
  return Object.entries(findings.covered).map(([name, share]) => {
    const { value, numerator_mm2: part, denominator_mm2: whole } = share;
    const areas = part === null || whole === null ? "" : ` (${numeral(part, 3)} ${text("of")} ${numeral(whole, 3)} mm² ${text("tissue")})`;
    const percent = value === null ? text("noTissue") : `${numeral(value * 100, 1)} %${areas}`;
    return element("p", { class: "covered", "data-covered": name }, `${titleOf(name, share)}: ${percent}`);
  });
}

/** In the language chosen, where it is known there. */
function titleOf(name: string, { title }: AreaShare): string {
  return name === "steatosis_area_fraction" ? text("steatosisArea") : title;
}

/** Which part of what a class is, with what was divided. */
function fractionOf({ fractions, tissue }: Findings, name: string): string {
  const area = tissue[name];
  const share = area ?? fractions[name];
  if (share?.value == null) return "";
  const percent = `${numeral(share.value * 100, 1)} %`;
  const [part, whole] = [numeral(share.numerator, area ? 3 : 0), numeral(share.denominator, area ? 3 : 0)];
  if (area) return `${percent} (${part} ${text("of")} ${whole} mm² ${text("tissue")})`;
  // The class that it is a part of; those of everything go without saying.
  const group = share.of in fractions ? ` ${share.of}` : "";
  return `${percent} (${part} ${text("of")} ${whole}${group})`;
}
