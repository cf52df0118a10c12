// The jobs of the server, asked for again and again while there are any that run.
import { type Api, ProblemError } from "./api.ts";
import type { Job } from "./wire.ts";

const POLL_MS = 1500;

export interface JobWatchEvents {
  fail(error: unknown): void;
  /** The jobs were fetched; or there are none to be had. */
  seen(): Promise<void>;
}

export class JobWatch {
  /** Null: the server takes no jobs, or they are not known yet. */
  jobs: Job[] | null = null;
  private timer = 0;

  constructor(
    private readonly api: Api,
    private readonly events: JobWatchEvents,
  ) {}

  async poll(): Promise<void> {
    clearTimeout(this.timer);
    try {
      this.jobs = await this.api.jobs();
    } catch (error) {
      const isOff = error instanceof ProblemError && error.problem.status === 404;
      this.jobs = null;
      if (!isOff) this.events.fail(error);
    }
    await this.events.seen();
    if (this.jobs?.some((job) => job.status === "queued" || job.status === "running")) {
      this.timer = window.setTimeout(() => void this.poll(), POLL_MS);
    }
  }
}
