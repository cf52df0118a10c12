// The jobs of the server, asked for again and again while there are any that run.
import { type Api, ProblemError } from "./api.ts";
import type { Job } from "./wire.ts";

const POLL_MS = 1500;
/** Statuses that asking again does not change: the server takes no jobs, or the key does not allow to read them. */
const FINAL = [401, 403, 404];

export interface JobWatchEvents {
  fail(error: unknown): void;
  /** The jobs were fetched; or there are none to be had. */
  seen(): Promise<void>;
  /** The server answers again. */
  back(): void;
}

export class JobWatch {
  /** Null: the server takes no jobs, or they are not known. */
  jobs: Job[] | null = null;
  /** Whether the server takes no jobs. */
  isOff = false;
  private isAway = false;
  private timer = 0;

  constructor(
    private readonly api: Api,
    private readonly events: JobWatchEvents,
  ) {}

  async poll(): Promise<void> {
    clearTimeout(this.timer);
    try {
      this.jobs = await this.api.jobs();
      this.isOff = false;
      if (this.isAway) this.events.back();
      this.isAway = false;
    } catch (error) {
      const status = error instanceof ProblemError ? error.problem.status : 0;
      this.isOff = status === 404;
      if (!this.isOff && !this.isAway) this.events.fail(error);
      // A server that restarts takes up its jobs again.
      this.isAway = !FINAL.includes(status);
      if (!this.isAway) this.jobs = null;
    }
    await this.events.seen();
    if (this.isAway || this.jobs?.some((job) => job.status === "queued" || job.status === "running")) {
      this.timer = window.setTimeout(() => void this.poll(), POLL_MS);
    }
  }
}
