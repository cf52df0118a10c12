// What leaves the page: files of a result, a picture of the view, a link to it.
import type { Api } from "./api.ts";
import { colorOfValue, css } from "./colors.ts";
import { download } from "./element.ts";
import { csvOf, dsaOf, geojsonOf, type Format, type Scope } from "./exports.ts";
import type { Cell, Findings } from "./findings.ts";
import type { Swatch } from "./picture.ts";
import { BY_CLASS, type Look } from "./resultpanel.ts";
import { numeral, text, type TextName } from "./texts.ts";

const ENCODE = { geojson: geojsonOf, dsa: dsaOf, csv: csvOf };
const NAMES: Record<Format, string> = {
  geojson: "cells.geojson",
  dsa: "cells.dsa.geojson",
  csv: "cells.csv",
  parquet: "cells.parquet",
};
const PARQUET = "application/vnd.apache.parquet";

/** Saves a file of what is `shown`, or of all of a result; why it cannot, or null. */
export async function saveFile(
  api: Api,
  findings: Findings | null,
  shown: Cell[],
  format: Format,
  scope: Scope,
): Promise<TextName | null> {
  if (format === "parquet") {
    if (!findings?.job || findings.isRunning) return "onlyJobs";
    if (scope !== "all") return "wholeOnly";
    download(NAMES.parquet, await api.file(findings.job, PARQUET));
    return null;
  }
  const cells = scope === "all" && findings ? await findings.all() : shown;
  if (!cells) return "tooMany";
  // Of an area that is in parts each part is drawn, and the area is exported once.
  const each = format === "geojson" ? cells : cells.filter((cell) => cell.isCounted);
  download(NAMES[format], ENCODE[format](each));
  return null;
}

/** What the colours of outlines mean. */
export function swatches(findings: Findings | null, { colorBy }: Look, [low, high]: [number, number]): Swatch[] {
  if (colorBy === BY_CLASS) {
    return (findings?.classes ?? []).map(({ name, color }) => ({ color: css(color), label: name }));
  }
  return [0, 0.5, 1].map((share) => {
    const value = low + share * (high - low);
    return { color: colorOfValue(value, low, high), label: `${colorBy} ${numeral(value, 2)}` };
  });
}

/** The lines below a picture. */
export function caption(slide: string | undefined, findings: Findings | null): string[] {
  return [[slide, findings?.pipeline].filter(Boolean).join(" · "), text("research")];
}
