// What was found on a slide: the cells or outlines of a region, or of a job that is asked for what is in view.
import type { Api, RegionRequest } from "./api.ts";
import { decodeBoxCells } from "./boxcells.ts";
import { decodeField } from "./fields.ts";
import { Squares } from "./squares.ts";
import type { AreaShare, Box, ClassInfo, Color, Feature, FeatureCollection, Job, Legend, Share, Summary, Warning } from "./wire.ts";

export interface Cell {
  id: string;
  className: string;
  color: Color;
  /** Outer ring, then holes; x and y in turn, level-0 pixels. */
  rings: Float64Array[];
  left: number;
  top: number;
  right: number;
  bottom: number;
  /** Of the class, by the network that decided it. */
  probability: number;
  measurements: Record<string, number>;
  /** The names of the measurements that cells of its kind may have, and one of its own. */
  measureNames: readonly string[];
  measure(name: string): number | undefined;
  /** Whether it is one of what the result counts: not the outline around tiles, nor a further part of an area. */
  isCounted: boolean;
  feature: Feature;
}

export interface Findings {
  kind: string;
  pipeline: string;
  /** Tells results apart. */
  id: string;
  /** The job, if it is one; null: of a region. */
  job: string | null;
  /** Whether the job still runs: these are the cells found so far. */
  isRunning: boolean;
  /** Micrometres for a pixel of level 0, and the method that normalised the stain, as far as these are known. */
  mpp: number | null;
  stain: string | null;
  classes: ClassInfo[];
  counts: Record<string, number>;
  fractions: Record<string, Share>;
  /** Of areas: how much of the tissue each class is, in mm2. */
  tissue: Record<string, Share>;
  /** What companion networks measured of the tissue beside the cells, by name. */
  covered: Record<string, AreaShare>;
  legends: Legend[];
  /** The part of the slide that was analysed; null: not known. */
  region: Box | null;
  warnings: Warning[];
  /** A heatmap as one picture of the region: PNG. */
  heatmap(name: string, colormap: string): Promise<Blob>;
  /** Cells that meet a box of level 0; null: there are too many to be sent. */
  within(box: Box): Promise<Cell[] | null>;
  /** All of them; null: there are too many for a browser. */
  all(): Promise<Cell[] | null>;
  /** Of a running job: fetches what was found since; whether there is more. */
  update?(): Promise<boolean>;
}

/** More cells are not fetched at once. */
export const MAX_ALL = 200_000;

let regions = 0;

/** What the files of a region's archive say; its heatmaps are drawn in `colormap`, and in others on demand. */
export async function ofRegion(
  api: Api,
  asked: RegionRequest,
  files: Map<string, Blob>,
  classes: ClassInfo[],
  colormap: string,
): Promise<Findings> {
  const summary = JSON.parse(await textOf(files, "summary.json")) as Summary;
  const outlines = [...files.keys()].find((name) => name.endsWith(".geojson")) ?? "";
  const collection = JSON.parse(await textOf(files, outlines)) as FeatureCollection;
  const cells = collection.features.flatMap((feature) => cellsOf(feature, summary.kind));
  return {
    ...endedWith(summary, classes),
    id: `region ${++regions}`,
    job: null,
    heatmap: (name, wanted) => {
      const drawn = files.get(`heatmaps/${name}.png`);
      return drawn && wanted === colormap ? Promise.resolve(drawn) : api.regionHeatmap(asked, name, wanted);
    },
    within: (box) => Promise.resolve(cells.filter((cell) => meets(cell, box))),
    all: () => Promise.resolve(cells),
  };
}

function textOf(files: Map<string, Blob>, name: string): Promise<string> {
  const file = files.get(name);
  if (!file) throw new Error(`The archive has no ${name || "outlines"}.`);
  return file.text();
}

/** What a summary says of a result that is complete. */
function endedWith(summary: Summary, classes: ClassInfo[]): Omit<Findings, "id" | "job" | "heatmap" | "within" | "all"> {
  return {
    kind: summary.kind,
    pipeline: summary.pipeline,
    isRunning: false,
    mpp: summary.mpp,
    stain: summary.facts?.stain?.method ?? null,
    classes,
    counts: summary.counts,
    fractions: summary.kind === "areas" ? {} : { ...shares(summary.counts), ...summary.fractions },
    tissue: tissueOf(summary),
    covered: summary.area_fractions ?? {},
    legends: summary.heatmaps,
    region: summary.region,
    warnings: summary.warnings,
  };
}

/** The cells of a running job in the fields that are done; `update` fetches those that have been done since. */
export async function ofRunning(api: Api, job: Job, classes: ClassInfo[]): Promise<Findings> {
  const fetched = new Set<number>();
  const cells: Cell[] = [];
  const counts: Record<string, number> = {};
  const update = async () => {
    const done = (await api.fields(job.id)).filter((index) => !fetched.has(index));
    for (const index of done) {
      if (cells.length >= MAX_ALL) break;
      const found = decodeField(await api.field(job.id, index), classes);
      fetched.add(index);
      for (const cell of found) {
        cells.push(cell);
        counts[cell.className] = (counts[cell.className] ?? 0) + 1;
      }
    }
    return done.length > 0;
  };
  await update();
  return {
    kind: "cells",
    pipeline: job.pipeline,
    id: job.id,
    job: job.id,
    isRunning: true,
    mpp: null,
    stain: null,
    classes,
    counts,
    fractions: {},
    tissue: {},
    covered: {},
    legends: [],
    region: null,
    warnings: [],
    heatmap: (name, colormap) => api.heatmap(job.id, name, colormap),
    within: (box) => Promise.resolve(cells.filter((cell) => meets(cell, box))),
    all: () => Promise.resolve(cells),
    update,
  };
}

export async function ofJob(api: Api, job: string, classes: ClassInfo[]): Promise<Findings> {
  const summary = await api.summary(job);
  const all = async () => {
    const total = Object.values(summary.counts).reduce((sum, count) => sum + count, 0);
    if (total > MAX_ALL) return null;
    return (await api.result(job)).features.flatMap((feature) => cellsOf(feature, summary.kind));
  };
  const within = summary.kind === "cells" ? bySquares(api, job, summary) : await whole(api, job, summary.kind);
  const heatmap = (name: string, colormap: string) => api.heatmap(job, name, colormap);
  return { ...endedWith(summary, classes), id: job, job, heatmap, within, all };
}

async function whole(api: Api, job: string, kind: string): Promise<Findings["within"]> {
  const cells = (await api.result(job)).features.flatMap((feature) => cellsOf(feature, kind));
  return (box) => Promise.resolve(cells.filter((cell) => meets(cell, box)));
}

/** Cells by squares of the slide, of which the last ones are kept. */
function bySquares(api: Api, job: string, { region }: Summary): Findings["within"] {
  const squares = new Squares(region, async ({ x, y, width, height }) =>
    decodeBoxCells(await api.cells(job, x, y, width, height)),
  );
  return async (box) => {
    const found = await squares.meeting(box);
    // A cell at the border of two squares is in both.
    const cells = new Map<string, Cell>();
    for (const cell of found ?? []) if (meets(cell, box)) cells.set(cell.id, cell);
    return found && [...cells.values()];
  };
}

function tissueOf({ areas, tissue_area_mm2 }: Summary): Record<string, Share> {
  return Object.fromEntries(
    Object.entries(areas ?? {}).map(([name, { area_mm2, tissue_share }]) => [
      name,
      { value: tissue_share, numerator: area_mm2, denominator: tissue_area_mm2, of: "tissue" },
    ]),
  );
}

function shares(counts: Record<string, number>): Record<string, Share> {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  return Object.fromEntries(
    Object.entries(counts).map(([name, count]) => [
      name,
      { value: all ? count / all : null, numerator: count, denominator: all, of: "all" },
    ]),
  );
}

export function meets(cell: Cell, box: Box): boolean {
  return (
    cell.right > box.x && cell.left < box.x + box.width && cell.bottom > box.y && cell.top < box.y + box.height
  );
}

export const GREY: Color = [128, 128, 128];

function cellsOf(feature: Feature, kind: string): Cell[] {
  const { geometry, properties } = feature;
  const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
  const className = properties.classification?.name ?? properties.objectType;
  const measurements = properties.measurements ?? {};
  const measureNames = Object.keys(measurements);
  // Coordinates are kept once: as an object for each vertex they would take ten times as much.
  const whole = geometry.type === "Polygon" ? null : feature;
  return polygons.map((polygon, place) => {
    const rings = polygon.map((ring) => Float64Array.from(ring.flat()));
    return {
      id: place ? `${feature.id}-${place}` : String(feature.id),
      className,
      color: properties.classification?.color ?? GREY,
      rings,
      ...boundsOf(rings[0] ?? new Float64Array()),
      probability: probabilityOf(className, measurements),
      measurements,
      measureNames,
      measure: (name) => measurements[name],
      isCounted: place === 0 && (kind !== "patches" || properties.objectType === "tile"),
      get feature() {
        return whole ?? featureOf(String(feature.id), rings, properties);
      },
    };
  });
}

type Bounds = Pick<Cell, "left" | "top" | "right" | "bottom">;

export function boundsOf(ring: Float64Array): Bounds {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < ring.length; i += 2) {
    const x = ring[i] as number;
    const y = ring[i + 1] as number;
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < top) top = y;
    if (y > bottom) bottom = y;
  }
  return { left, top, right, bottom };
}

export function featureOf(id: string, rings: Float64Array[], properties: Feature["properties"]): Feature {
  const coordinates = rings.map((ring) =>
    Array.from({ length: ring.length / 2 }, (_, i): [number, number] => [ring[2 * i] as number, ring[2 * i + 1] as number]),
  );
  return { type: "Feature", id, geometry: { type: "Polygon", coordinates }, properties };
}

/** The centre of what an outline encloses, by the shoelace formula. */
export function centroidOf(cell: Cell): [number, number] {
  const ring = cell.rings[0] ?? new Float64Array();
  let [twice, sumX, sumY] = [0, 0, 0];
  // Relative to a corner: the products of large coordinates would lose digits.
  for (let i = 0; i + 3 < ring.length; i += 2) {
    const [ax, ay] = [(ring[i] as number) - cell.left, (ring[i + 1] as number) - cell.top];
    const [bx, by] = [(ring[i + 2] as number) - cell.left, (ring[i + 3] as number) - cell.top];
    const cross = ax * by - bx * ay;
    twice += cross;
    sumX += (ax + bx) * cross;
    sumY += (ay + by) * cross;
  }
  return [cell.left + sumX / (3 * twice), cell.top + sumY / (3 * twice)];
}

/** The last network that saw a cell decided its class: its probability of that class, else the detection's score. */
function probabilityOf(className: string, measurements: Record<string, number>): number {
  const name = decidingOf(className, Object.keys(measurements)).at(-1);
  return name === undefined ? 1 : (measurements[name] ?? 1);
}

/** Of the names of measurements those that give the probability of a class: the score, then network by network. */
export function decidingOf(className: string, names: readonly string[]): string[] {
  const ending = ` ${className.split(": ").at(-1)} probability`;
  return [...names.filter((name) => name === "Detection score"), ...names.filter((name) => name.endsWith(ending))];
}

/** Whether a point of level 0 is in a cell, by the even-odd rule. */
export function contains(cell: Cell, x: number, y: number): boolean {
  if (x < cell.left || x > cell.right || y < cell.top || y > cell.bottom) return false;
  let inside = false;
  for (const ring of cell.rings) {
    for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
      const [xi, yi] = [ring[i] as number, ring[i + 1] as number];
      const [xj, yj] = [ring[j] as number, ring[j + 1] as number];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
  }
  return inside;
}
