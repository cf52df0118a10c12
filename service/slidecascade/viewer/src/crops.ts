// The pixels of a cell as the networks of its pipeline are given them.
import type { Api } from "./api.ts";
import type { Seen } from "./cellpanel.ts";
import { centroidOf, type Cell, type Findings } from "./findings.ts";
import type { PipelineInfo } from "./wire.ts";

/** Of a cell that was found on `slide` by the pipeline `info`. */
export function cropsOf(api: Api, cell: Cell, findings: Findings, info: PipelineInfo, slide: string): Seen[] {
  if (findings.kind !== "cells") return [];
  const [x, y] = centroidOf(cell).map((value) => value.toFixed(3)) as [string, string];
  // A network of a later stage is given the cells that an earlier one has chosen, and no others.
  const measured = Object.keys(cell.measurements);
  const classifiers = info.classifiers.filter((name) => measured.some((measure) => measure.startsWith(`${name} `)));
  const models = [info.segmenter, ...classifiers].filter((name) => name !== null);
  const { job } = findings;
  if (job && !findings.isRunning) return models.map((model) => ({ model, picture: api.jobCrop(job, model, x, y) }));
  const asked: Record<string, string> = { pipeline: info.name, x, y };
  if (findings.mpp !== null) asked["mpp"] = String(findings.mpp);
  if (findings.stain !== null) asked["stain"] = findings.stain;
  return models.map((model) => ({ model, picture: api.crop(slide, model, asked) }));
}
