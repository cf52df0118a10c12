// Files of what is in view.
import { button, element } from "./element.ts";
import type { Cell } from "./findings.ts";
import { text } from "./texts.ts";

export interface ExportEvents {
  geojson(): void;
  csv(): void;
  picture(): void;
  link(): void;
}

export class ExportPanel {
  readonly root: HTMLElement;
  private readonly done = element("p", { class: "note", role: "status" });

  constructor(events: ExportEvents) {
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("exports") },
      element("h2", {}, text("exports")),
      element("p", { class: "note" }, text("exportNote")),
      button("GeoJSON", () => events.geojson()),
      button("CSV", () => events.csv()),
      button(text("picture"), () => events.picture()),
      button(text("link"), () => events.link()),
      this.done,
    );
  }

  say(message: string): void {
    this.done.textContent = message;
  }
}

export function geojsonOf(cells: readonly Cell[]): Blob {
  const features = [...new Set(cells.map((cell) => cell.feature))];
  const slidecascade = { research_use_only: text("research") };
  const content = JSON.stringify({ type: "FeatureCollection", slidecascade, features });
  return new Blob([content], { type: "application/geo+json" });
}

/** A line for each cell; names are quoted, so that spreadsheets read none as a formula. */
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
