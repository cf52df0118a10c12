// All requests of the page. The key, if one is given, stays in memory and goes with each of them.
import { BOX_CELLS } from "./boxcells.ts";
import { unzipped } from "./unzipped.ts";
import type { FeatureCollection, Job, ListedSlide, ModelInfo, PipelineInfo, Problem, SlideInfo, Summary } from "./wire.ts";

/** How a slide is shown. */
export interface Shown {
  /** Which channels, and how, as `ChannelPanel` says; empty: all, as the server shows them. */
  channels: string;
  /** Whether pictures that stand in for others are taken. */
  standIn: boolean;
}

/** A region as it is posted; `image`: of this file, null: of a slide that `request` names. */
export interface RegionRequest {
  request: object;
  image: File | null;
}

/** The header of pictures that stand in for those that are being made. */
export const STAND_IN = "SlideCascade-Stand-In";
/** The header of blank tiles: why the slide cannot be read there. */
const BLANK = "SlideCascade-Problem";
/** The header of tiles of a slide that has another content by now. */
export const REPLACED = "SlideCascade-Replaced";
const ROOT = new URL("../", document.baseURI).pathname;

export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** There was no answer, or not all of one. */
export class UnreachableError extends Error {}

/** A path of the API below the server's root, which a proxy may have moved. */
export function address(path: string): string {
  return ROOT + path;
}

/** Why a tile that has arrived is blank; null: it is not. */
export function faultOf(tile: XMLHttpRequest): ProblemError | null {
  const detail = tile.getResponseHeader(BLANK);
  if (detail === null) return null;
  const request_id = tile.getResponseHeader("X-Request-Id") ?? "";
  return new ProblemError({ type: "", title: "", status: tile.status, detail: decodeURIComponent(detail), request_id });
}

function slidePath(id: string): string {
  return `v1/slides/${id.split("/").map(encodeURIComponent).join("/")}`;
}

export class Api {
  private key = "";

  setKey(key: string): void {
    this.key = key;
  }

  /** The headers that requests for tiles need as well. */
  headers(): Record<string, string> {
    return this.key ? { "X-API-Key": this.key } : {};
  }

  async slideIds(): Promise<string[]> {
    const list = await this.json<{ slides: { id: string }[] }>("v1/slides");
    return list.slides.map((slide) => slide.id);
  }

  /**
   * A slide, and why its pictures cannot be had, if so. It is looked up in the list, which also answers where it cannot
   * be opened: the browser would report each request that fails as an error of the page.
   */
  async slide(id: string): Promise<{ slide: SlideInfo; fault: ProblemError | null }> {
    const list = await this.json<{ slides: ListedSlide[] }>(`v1/slides?${new URLSearchParams({ only: id })}`);
    const { info, problem } = list.slides[0] as ListedSlide;
    const fault = problem ? new ProblemError(problem) : null;
    if (!info) throw fault;
    return { slide: info, fault };
  }

  /** A small picture of a slide; `isFinal`: it is no stand-in, so that asking again gives no better one. */
  async thumbnail(id: string, maxPx: number): Promise<{ picture: Blob; isFinal: boolean }> {
    return this.send(`${slidePath(id)}/thumbnail?max_px=${maxPx}&standin=1`, async (answer) => ({
      picture: await answer.blob(),
      isFinal: !answer.headers.has(STAND_IN),
    }));
  }

  /** Whether coarse tiles of a slide are stand-ins still. */
  async isStandIn(slide: SlideInfo, shown: Shown): Promise<boolean> {
    const answer = await fetch(this.tileAddress(slide, shown, 0, 0, 0), { headers: this.headers() });
    return answer.headers.has(STAND_IN);
  }

  tileAddress(slide: SlideInfo, shown: Shown, level: number, column: number, row: number): string {
    const tile = `${slidePath(slide.id)}/dzi_files/${level}/${column}_${row}.jpeg`;
    const standIn = shown.standIn ? "&standin=1" : "";
    const channels = shown.channels ? `&channels=${encodeURIComponent(shown.channels)}` : "";
    return address(`${tile}?content_id=${slide.content_id}${standIn}${channels}`);
  }

  layerAddress(job: string, layer: string, colormap: string, level: number, column: number, row: number): string {
    const name = encodeURIComponent(layer);
    return address(`v1/jobs/${job}/layers/${name}/${level}/${column}_${row}.png?colormap=${colormap}`);
  }

  async pipelines(): Promise<PipelineInfo[]> {
    return (await this.json<{ pipelines: PipelineInfo[] }>("v1/pipelines")).pipelines;
  }

  /** What the page shows of a region: files of its archive, heatmaps in `colormap`. */
  async region(asked: RegionRequest, colormap: string, signal: AbortSignal): Promise<Map<string, Blob>> {
    return unzipped(await this.postRegion(asked, `colormap=${colormap}&without=overlay,figures`, "application/zip", signal));
  }

  /** A heatmap of a region, which is analysed again: PNG. */
  async regionHeatmap(asked: RegionRequest, name: string, colormap: string): Promise<Blob> {
    const query = new URLSearchParams({ heatmap: name, colormap });
    return this.postRegion(asked, String(query), "image/png");
  }

  private postRegion({ request, image }: RegionRequest, query: string, accept: string, signal?: AbortSignal): Promise<Blob> {
    const text = JSON.stringify(request);
    const form = new FormData();
    form.append("request", text);
    if (image) form.append("image", image);
    const headers = { Accept: accept, ...(image ? {} : AS_JSON) };
    const body = image ? form : text;
    return this.blob(`v1/regions?${query}`, { method: "POST", body, headers, ...(signal ? { signal } : {}) });
  }

  async models(): Promise<ModelInfo[]> {
    return (await this.json<{ models: ModelInfo[] }>("v1/models")).models;
  }

  /** A cell as a network was given it: PNG. */
  crop(slide: string, model: string, asked: Record<string, string>): Promise<Blob> {
    const path = `${slidePath(slide)}/crops/${encodeURIComponent(model)}.png?${new URLSearchParams(asked)}`;
    return this.blob(path);
  }

  /** A cell of a job as a network was given it: PNG. */
  jobCrop(job: string, model: string, x: string, y: string): Promise<Blob> {
    return this.blob(`v1/jobs/${job}/crops/${encodeURIComponent(model)}.png?x=${x}&y=${y}`);
  }

  submit(request: object): Promise<Job> {
    return this.json("v1/jobs", { method: "POST", body: JSON.stringify(request), headers: AS_JSON });
  }

  async jobs(): Promise<Job[]> {
    return (await this.json<{ jobs: Job[] }>("v1/jobs?limit=30")).jobs;
  }

  job(id: string): Promise<Job> {
    return this.json(`v1/jobs/${encodeURIComponent(id)}`);
  }

  cancel(id: string): Promise<Job> {
    return this.json(`v1/jobs/${id}/cancel`, { method: "POST" });
  }

  summary(job: string): Promise<Summary> {
    return this.json(`v1/jobs/${job}/result`, { headers: { Accept: "application/json" } });
  }

  result(job: string): Promise<FeatureCollection> {
    return this.json(`v1/jobs/${job}/result`, { headers: { Accept: "application/geo+json" } });
  }

  /** A job's file of a media type, whole. */
  file(job: string, mediaType: string): Promise<Blob> {
    return this.blob(`v1/jobs/${job}/result`, { headers: { Accept: mediaType } });
  }

  /** A heatmap of a job as one picture of what was analysed: PNG. */
  heatmap(job: string, name: string, colormap: string): Promise<Blob> {
    const asked = new URLSearchParams({ heatmap: name, colormap });
    return this.blob(`v1/jobs/${job}/result?${asked}`, { headers: { Accept: "image/png" } });
  }

  /** Which fields of a job are done. */
  async fields(job: string): Promise<number[]> {
    return (await this.json<{ fields: number[] }>(`v1/jobs/${job}/fields`)).fields;
  }

  /** The cells of a field, see `fields.ts`. */
  field(job: string, index: number): Promise<ArrayBuffer> {
    return this.send(`v1/jobs/${job}/fields/${index}`, (answer) => answer.arrayBuffer());
  }

  /** The cells that meet a box, see `boxcells.ts`. */
  cells(job: string, x: number, y: number, width: number, height: number): Promise<ArrayBuffer> {
    const path = `v1/jobs/${job}/cells?bbox=${x},${y},${width},${height}`;
    return this.send(path, (answer) => answer.arrayBuffer(), { headers: { Accept: BOX_CELLS } });
  }

  private json<T>(path: string, options: RequestInit = {}): Promise<T> {
    return this.send(path, (answer) => answer.json() as Promise<T>, options);
  }

  private blob(path: string, options: RequestInit = {}): Promise<Blob> {
    return this.send(path, (answer) => answer.blob(), options);
  }

  /** What `read` makes of an answer. */
  private async send<T>(path: string, read: (answer: Response) => Promise<T>, options: RequestInit = {}): Promise<T> {
    try {
      const answer = await fetch(address(path), { ...options, headers: { ...options.headers, ...this.headers() } });
      if (!answer.ok) throw new ProblemError(await problemOf(answer));
      return await read(answer);
    } catch (error) {
      // That is how browsers report connections, and here nothing else does.
      throw error instanceof TypeError ? new UnreachableError(error.message) : error;
    }
  }
}

const AS_JSON = { "Content-Type": "application/json" };

async function problemOf(response: Response): Promise<Problem> {
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    return (await response.json()) as Problem;
  }
  return {
    type: "",
    title: response.statusText,
    status: response.status,
    detail: `${response.status} ${response.statusText}`,
    request_id: response.headers.get("X-Request-Id") ?? "",
  };
}
