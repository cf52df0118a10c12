// Files of what is in view.
import { button, element, labelled } from "./element.ts";
import type { Cell } from "./findings.ts";
import { text } from "./texts.ts";

export type Scope = "view" | "all";
export type Format = "geojson" | "dsa" | "csv" | "parquet";

export interface ExportEvents {
  file(format: Format, scope: Scope): void;
  picture(): void;
  link(): void;
}

const LABELS: [Format, string][] = [
  ["geojson", "GeoJSON"],
  ["dsa", "DSA"],
  ["csv", "CSV"],
  ["parquet", "Parquet"],
];

export class ExportPanel {
  readonly root: HTMLElement;
  private readonly done = element("p", { class: "note", role: "status" });
  private readonly scope = element("select", { name: "export-scope" });

  constructor(events: ExportEvents) {
    this.scope.append(
      element("option", { value: "view" }, text("exportView")),
      element("option", { value: "all" }, text("exportAll")),
    );
    const file = ([format, label]: [Format, string]) =>
      button(label, () => events.file(format, this.scope.value as Scope), { "data-export": format });
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("exports") },
      element("h2", {}, text("exports")),
      labelled(text("exportScope"), this.scope),
      element("div", { class: "row" }, ...LABELS.map(file)),
      button(text("picture"), () => events.picture()),
      button(text("link"), () => events.link()),
      this.done,
    );
  }

  say(message: string): void {
    this.done.textContent = message;
  }
}

/** GeoJSON that the Digital Slide Archive and QuPath read alike: the former keeps of properties only its own. */
export function dsaOf(cells: readonly Cell[]): Blob {
  const features = cells.map(({ feature, className, color: [red, green, blue], measurements }) => ({
    ...feature,
    properties: {
      ...feature.properties,
      label: { value: className },
      group: className,
      lineColor: `rgb(${red},${green},${blue})`,
      fillColor: `rgba(${red},${green},${blue},0.25)`,
      lineWidth: 1,
      user: measurements,
    },
  }));
  return collection(features);
}

export function geojsonOf(cells: readonly Cell[]): Blob {
  return collection([...new Set(cells.map((cell) => cell.feature))]);
}

function collection(features: object[]): Blob {
  const slidecascade = { research_use_only: text("research") };
  const content = JSON.stringify({ type: "FeatureCollection", slidecascade, features });
  return new Blob([content], { type: "application/geo+json" });
}

/** A line for each cell. */
export function csvOf(cells: readonly Cell[]): Blob {
  const measures = [...new Set(cells.flatMap((cell) => Object.keys(cell.measurements)))].sort();
  const head = ["id", "class", "x_l0", "y_l0", "probability", ...measures];
  const lines = cells.map((cell) => [
    cell.id,
    cell.className,
    ((cell.left + cell.right) / 2).toFixed(1),
    ((cell.top + cell.bottom) / 2).toFixed(1),
    cell.probability,
    ...measures.map((name) => cell.measurements[name] ?? ""),
  ]);
  const content = [head, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n");
  return new Blob([`${content}\r\n`], { type: "text/csv" });
}

function quoted(value: string | number): string {
  return typeof value === "number" ? String(value) : `"${value.replaceAll('"', '""')}"`;
}
