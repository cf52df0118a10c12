// The jobs of the server: their progress, and what can be done with them.
import { button, element } from "./element.ts";
import { moment, numeral, text } from "./texts.ts";
import type { Job } from "./wire.ts";

export interface JobEvents {
  open(job: Job): void;
  cancel(job: Job): void;
  /** Lays a second result beside the one that is shown. */
  compare(job: Job): void;
}

export class JobList {
  readonly root: HTMLElement;
  private readonly list = element("ul", { class: "jobs" });

  /** The result that is shown, which those of the same slide can be compared with. */
  private other: { job: string | null; slide: string } | null = null;
  private jobs: readonly Job[] = [];

  constructor(
    private readonly events: JobEvents,
    private readonly isOfCells: (pipeline: string) => boolean,
  ) {
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("jobs") },
      element("h2", {}, text("jobs")),
      this.list,
    );
    this.setNote(text("noJobs"));
  }

  setNote(note: string): void {
    this.list.replaceChildren(element("li", { class: "note" }, note));
  }

  /** States what is shown: a job's result or a region's (null), and of which slide. */
  setShown(job: string | null, slide: string | null): void {
    this.other = slide === null ? null : { job, slide };
    if (this.jobs.length > 0) this.set(this.jobs);
  }

  set(jobs: readonly Job[]): void {
    this.jobs = jobs;
    if (jobs.length === 0) {
      this.setNote(text("noJobs"));
      return;
    }
    const focused = document.activeElement?.getAttribute("data-job-act");
    this.list.replaceChildren(...jobs.map((job) => this.item(job)));
    if (focused) this.list.querySelector<HTMLElement>(`[data-job-act="${focused}"]`)?.focus();
  }

  private item(job: Job): HTMLElement {
    const item = element("li", { "data-job": job.id, "data-status": job.status });
    item.append(element("span", { class: "name" }, nameOf(job)), status(job));
    if (job.status === "running" || job.status === "queued") {
      const progress = element("progress", { max: 1, value: job.progress.fraction, "aria-label": text("running") });
      item.append(progress, this.act(job, "cancel", text("stop"), () => this.events.cancel(job)));
    }
    if (job.status === "succeeded" && job.slide) {
      item.append(this.act(job, "open", text("open"), () => this.events.open(job)));
      if (this.other && this.other.job !== job.id && this.other.slide === job.slide) {
        item.append(this.act(job, "compare", text("compare"), () => this.events.compare(job)));
      }
    }
    if (job.status === "running" && job.slide && this.isOfCells(job.pipeline)) {
      item.append(this.act(job, "open", text("watch"), () => this.events.open(job)));
    }
    if (job.error) item.append(element("p", { class: "note" }, job.error.detail));
    return item;
  }

  private act(job: Job, name: string, label: string, act: () => void): HTMLButtonElement {
    const whole = `${label}: ${nameOf(job)}, ${job.pipeline}`;
    return button(label, act, { "aria-label": whole, "data-job-act": `${name}-${job.id}` });
  }
}

/** What people know a job by; an upload has no name here, for it might be a patient's. */
function nameOf(job: Job): string {
  return job.label ?? job.slide ?? `${text("upload")}, ${moment(job.created_at)}`;
}

function status(job: Job): HTMLElement {
  const { cells, eta_s, fraction } = job.progress;
  const words = {
    queued: text("queued"),
    running: `${numeral(fraction * 100)} %`,
    succeeded: text("succeeded"),
    failed: text("failed"),
    cancelled: text("cancelled"),
  }[job.status];
  const left = job.status === "running" && eta_s !== null ? ` · ${numeral(eta_s)} s ${text("left")}` : "";
  const found = cells ? ` · ${numeral(cells)} ${text("cells")}` : "";
  return element("span", { class: "note" }, `${job.pipeline} · ${words}${left}${found}`);
}
