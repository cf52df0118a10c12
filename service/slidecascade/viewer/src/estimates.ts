// How long a run will take, by how long the last ones took.
import type { Api } from "./api.ts";
import type { Box, Job } from "./wire.ts";

/** Regions have a cost of their own, whatever their size. */
const LEAST_S = 0.3;

export class Estimates {
  /** Seconds for a pixel of level 0, by pipeline and by whether it was a job. */
  private readonly rates = new Map<string, number>();
  private readonly asked = new Set<string>();

  constructor(private readonly api: Api) {}

  /** A region has taken so long. */
  note(pipeline: string, box: Box, seconds: number): void {
    this.rates.set(key(pipeline, false), Math.max(seconds - LEAST_S, 0.01) / (box.width * box.height));
  }

  /** Learns from the last finished job of each pipeline; whether it has learnt something. */
  async learn(jobs: readonly Job[]): Promise<boolean> {
    const last = new Map<string, Job>();
    for (const job of jobs) {
      if (job.status === "succeeded" && job.started_at && job.finished_at && !last.has(job.pipeline)) {
        last.set(job.pipeline, job);
      }
    }
    let isNew = false;
    for (const job of last.values()) {
      if (this.asked.has(job.id)) continue;
      this.asked.add(job.id);
      const { region } = await this.api.summary(job.id);
      const seconds = (Date.parse(job.finished_at as string) - Date.parse(job.started_at as string)) / 1000;
      this.rates.set(key(job.pipeline, true), seconds / (region.width * region.height));
      isNew = true;
    }
    return isNew;
  }

  /** Seconds that `box` will take; null: nothing like it was run yet. */
  seconds(pipeline: string, box: Box | null, isJob: boolean): number | null {
    const rate = this.rates.get(key(pipeline, isJob)) ?? this.rates.get(key(pipeline, !isJob));
    return rate === undefined || !box ? null : LEAST_S + rate * box.width * box.height;
  }
}

function key(pipeline: string, isJob: boolean): string {
  return `${isJob ? "job" : "region"} ${pipeline}`;
}
