// Results over the slide: which is shown, which is beside it, and which cell is selected.
import type { Api } from "./api.ts";
import type { Catalogue } from "./catalogue.ts";
import type { CellPanel } from "./cellpanel.ts";
import type { Comparison } from "./comparison.ts";
import { type Cell, type Findings, ofJob, ofRunning } from "./findings.ts";
import type { JobList } from "./joblist.ts";
import type { Notices } from "./notices.ts";
import type { Look, ResultPanel } from "./resultpanel.ts";
import type { ShownResult } from "./shownresult.ts";
import type { Stage } from "./stage.ts";
import type { Job } from "./wire.ts";

/** Where results are shown; panels are made anew with each language. */
export interface ResultPlaces {
  readonly stage: Stage;
  readonly notices: Notices;
  readonly jobList: JobList;
  readonly result: ResultPanel;
  readonly cellPanel: CellPanel;
}

export class Results {
  constructor(
    private readonly api: Api,
    private readonly catalogue: Catalogue,
    private readonly shown: ShownResult,
    private readonly comparison: Comparison,
    private readonly places: () => ResultPlaces,
  ) {}

  /** What a job has found, all of it or so far. */
  ofJob(job: Job): Promise<Findings> {
    const classes = this.catalogue.classesOf(job.pipeline);
    return job.status === "running" ? ofRunning(this.api, job, classes) : ofJob(this.api, job.id, classes);
  }

  /** Shows findings of the slide whose id is `slide`, null: of an image, in place of others. */
  show(findings: Findings, look: Look, slide: string | null): void {
    const { stage, jobList, notices, result } = this.places();
    if (this.shown.findings !== findings) {
      stage.clearOverlays();
      this.comparison.end();
    }
    jobList.setShown(findings.job, slide);
    this.shown.show(findings, look);
    this.select(null);
    notices.warn(findings.warnings);
    result.set(findings, look);
    this.shown.changed();
  }

  clear(): void {
    const { stage, jobList, notices } = this.places();
    this.shown.clear();
    this.comparison.end();
    jobList.setShown(null, null);
    this.select(null);
    notices.warn([]);
    stage.clearOverlays();
  }

  select(cell: Cell | null): void {
    const { stage, cellPanel } = this.places();
    this.shown.selected = cell;
    cellPanel.set(cell);
    stage.redraw();
  }

  /** Lays the result of a second job of the slide that is shown, whose id is `slide`, at the right of a divider. */
  async compare(id: string, slide: string | null): Promise<void> {
    const left = this.shown.findings;
    const job = left && (await this.api.job(id));
    if (!job || job.slide !== slide) return;
    const right = await this.ofJob(job);
    // Another result, perhaps of another slide, was chosen meanwhile.
    if (this.shown.findings !== left) return;
    const { stage } = this.places();
    this.comparison.begin(left, right);
    stage.clearOverlays();
    stage.setDivider(this.comparison.share);
    this.shown.changed();
  }

  endComparison(): void {
    const { stage } = this.places();
    stage.setDivider(null);
    stage.clearOverlays();
    if (this.shown.findings) this.shown.changed();
  }

  /** Shows what the running job that is watched has found since, and its result once it has ended. */
  async follow(jobs: readonly Job[], slide: string | null): Promise<void> {
    const { findings } = this.shown;
    const job = findings?.isRunning ? jobs.find((item) => item.id === findings.job) : undefined;
    if (!findings || !job) return;
    if (job.status === "succeeded") {
      const ended = await ofJob(this.api, job.id, findings.classes);
      if (this.shown.findings === findings) this.show(ended, this.shown.look, slide);
    } else if ((await findings.update?.()) && this.shown.findings === findings) {
      this.places().result.set(findings, this.shown.look);
      await this.shown.refresh();
    }
  }
}
