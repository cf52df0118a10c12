// What was found on a slide: the cells or outlines of a region, or of a job that is asked for what is in view.
import type { Api } from "./api.ts";
import type { Box, ClassInfo, Color, Feature, FeatureCollection, Legend, Share, Summary, Warning } from "./wire.ts";

export interface Cell {
  id: string;
  className: string;
  color: Color;
  /** Outer ring, then holes; x and y in turn, level-0 pixels. */
  rings: Float32Array[];
  left: number;
  top: number;
  right: number;
  bottom: number;
  /** Of the class, by the network that decided it. */
  probability: number;
  measurements: Record<string, number>;
  feature: Feature;
}

export interface Findings {
  kind: string;
  pipeline: string;
  /** The job, if it is one; null: of a region. */
  job: string | null;
  classes: ClassInfo[];
  counts: Record<string, number>;
  fractions: Record<string, Share>;
  legends: Legend[];
  warnings: Warning[];
  /** Cells that meet a box of level 0; null: there are too many to be sent. */
  within(box: Box): Promise<Cell[] | null>;
}

const CHUNK_L0 = 2048;
const KEPT_CHUNKS = 64;
/** More chunks are not asked for at once: the view is too coarse for outlines. */
const MAX_CHUNKS = 24;

export function ofRegion(collection: FeatureCollection): Findings {
  const cells = collection.features.flatMap(cellsOf);
  const about = collection.slidecascade;
  const classes = new Map<string, ClassInfo>();
  for (const cell of cells) {
    classes.set(cell.className, { name: cell.className, color: cell.color });
  }
  const counts = about?.counts ?? {};
  return {
    kind: about?.kind ?? "cells",
    pipeline: about?.pipeline ?? "",
    job: null,
    classes: [...classes.values()].sort((a, b) => a.name.localeCompare(b.name)),
    counts,
    fractions: shares(counts),
    legends: [],
    warnings: about?.warnings ?? [],
    within: (box) => Promise.resolve(cells.filter((cell) => meets(cell, box))),
  };
}

export async function ofJob(api: Api, job: string, classes: ClassInfo[]): Promise<Findings> {
  const summary = await api.summary(job);
  const within =
    summary.kind === "cells"
      ? chunks(api, job, summary)
      : await whole(api, job);
  return {
    kind: summary.kind,
    pipeline: summary.pipeline,
    job,
    classes,
    counts: summary.counts,
    fractions: { ...shares(summary.counts), ...summary.fractions },
    // Layers are drawn for jobs of this kind.
    legends: summary.kind === "cells" ? summary.heatmaps : [],
    warnings: summary.warnings,
    within,
  };
}

async function whole(api: Api, job: string): Promise<Findings["within"]> {
  const cells = (await api.result(job)).features.flatMap(cellsOf);
  return (box) => Promise.resolve(cells.filter((cell) => meets(cell, box)));
}

/** Cells by fixed squares of the slide, of which the last ones are kept. */
function chunks(api: Api, job: string, summary: Summary): Findings["within"] {
  const kept = new Map<string, Promise<Cell[]>>();
  const { region } = summary;

  function chunk(column: number, row: number): Promise<Cell[]> {
    const key = `${column},${row}`;
    const found =
      kept.get(key) ??
      api
        .cells(job, column * CHUNK_L0, row * CHUNK_L0, CHUNK_L0, CHUNK_L0)
        .then((collection) => collection.features.flatMap(cellsOf));
    kept.delete(key);
    kept.set(key, found);
    found.catch(() => kept.delete(key));
    for (const oldest of kept.keys()) {
      if (kept.size <= KEPT_CHUNKS) break;
      kept.delete(oldest);
    }
    return found;
  }

  return async (box) => {
    const left = Math.floor(Math.max(box.x, region.x) / CHUNK_L0);
    const top = Math.floor(Math.max(box.y, region.y) / CHUNK_L0);
    const right = Math.ceil(Math.min(box.x + box.width, region.x + region.width) / CHUNK_L0);
    const bottom = Math.ceil(Math.min(box.y + box.height, region.y + region.height) / CHUNK_L0);
    if (right <= left || bottom <= top) return [];
    if ((right - left) * (bottom - top) > MAX_CHUNKS) return null;
    const parts: Promise<Cell[]>[] = [];
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) parts.push(chunk(column, row));
    }
    // A cell at the border of two squares is in both.
    const cells = new Map<string, Cell>();
    for (const part of await Promise.all(parts)) {
      for (const cell of part) if (meets(cell, box)) cells.set(cell.id, cell);
    }
    return [...cells.values()];
  };
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

const GREY: Color = [128, 128, 128];

function cellsOf(feature: Feature): Cell[] {
  const { geometry, properties } = feature;
  const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
  const className = properties.classification?.name ?? properties.objectType;
  const measurements = properties.measurements ?? {};
  return polygons.map((polygon, place) => {
    const rings = polygon.map((ring) => Float32Array.from(ring.flat()));
    const outer = rings[0] ?? new Float32Array();
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < outer.length; i += 2) {
      const x = outer[i] as number;
      const y = outer[i + 1] as number;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    return {
      id: place ? `${feature.id}-${place}` : String(feature.id),
      className,
      color: properties.classification?.color ?? GREY,
      rings,
      left,
      top,
      right,
      bottom,
      probability: probabilityOf(className, measurements),
      measurements,
      feature,
    };
  });
}

/** The last network that saw a cell decided its class: its probability of that class, else the detection's score. */
function probabilityOf(className: string, measurements: Record<string, number>): number {
  const ending = ` ${className.split(": ").at(-1)} probability`;
  const decided = Object.entries(measurements).filter(([name]) => name.endsWith(ending));
  return decided.at(-1)?.[1] ?? measurements["Detection score"] ?? 1;
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
