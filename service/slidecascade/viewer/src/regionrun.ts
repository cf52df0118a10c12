// A run of a region: what is posted, and what comes of it.
import type { Api } from "./api.ts";
import { type Findings, ofRegion } from "./findings.ts";
import { COLORMAPS } from "./resultpanel.ts";
import type { Order } from "./runform.ts";
import type { Box, ClassInfo } from "./wire.ts";

/** An order as regions and jobs are posted; `slide` is null for an image that is sent along. */
export function requestOf(order: Order, slide: string | null): Record<string, unknown> {
  const request: Record<string, unknown> = { pipeline: order.pipeline, thresholds: order.thresholds };
  if (order.mpp !== null) request["mpp"] = order.mpp;
  if (order.stain) request["stain"] = { method: order.stain };
  if (Object.keys(order.channels).length) request["channels"] = order.channels;
  if (slide !== null) request["slide"] = slide;
  return request;
}

export class RegionRun {
  private running: AbortController | null = null;

  constructor(private readonly api: Api) {}

  get isRunning(): boolean {
    return this.running !== null;
  }

  stop(): void {
    this.running?.abort();
  }

  /** What `request` finds in `region` of its slide, or of `image`. */
  async run(request: Record<string, unknown>, region: Box, image: File | null, classes: ClassInfo[]): Promise<Findings> {
    this.running = new AbortController();
    try {
      const asked = { request: { ...request, region }, image };
      const [colormap] = COLORMAPS;
      const files = await this.api.region(asked, colormap, this.running.signal);
      return await ofRegion(this.api, asked, files, classes, colormap);
    } finally {
      this.running = null;
    }
  }
}
