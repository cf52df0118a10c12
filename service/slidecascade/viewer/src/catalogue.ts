// The pipelines and models that the server offers.
import type { Api } from "./api.ts";
import { hasChannels, RGB } from "./channels.ts";
import type { ClassInfo, ModelInfo, PipelineInfo, SlideInfo } from "./wire.ts";

export class Catalogue {
  pipelines: PipelineInfo[] = [];
  private models: ModelInfo[] = [];

  constructor(private readonly api: Api) {}

  async load(): Promise<void> {
    [this.pipelines, this.models] = await Promise.all([this.api.pipelines(), this.api.models()]);
  }

  infoOf(pipeline: string): PipelineInfo | null {
    return this.pipelines.find((item) => item.name === pipeline) ?? null;
  }

  classesOf(pipeline: string): ClassInfo[] {
    return this.infoOf(pipeline)?.classes ?? [];
  }

  /** What the first network of a pipeline takes. */
  channelsOf(pipeline: PipelineInfo): string[] {
    const first = pipeline.segmenter ?? pipeline.classifiers[0];
    return this.models.find((model) => model.name === first)?.inputs[0]?.channels ?? [];
  }

  /** Whether a pipeline is for what the slide is: colours, or channels of its own. */
  fits(pipeline: PipelineInfo, slide: SlideInfo | null): boolean {
    const ofChannels = slide !== null && hasChannels(slide);
    return (this.channelsOf(pipeline).join(",") === RGB) !== ofChannels;
  }
}
