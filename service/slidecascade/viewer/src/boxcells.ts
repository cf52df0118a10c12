// The cells of a box of a job, from the columns that docs/jobs.md describes.
import { boundsOf, featureOf, GREY, decidingOf, type Cell } from "./findings.ts";
import type { ClassInfo, Feature } from "./wire.ts";

export const BOX_CELLS = "application/vnd.slidecascade.cells";
const MAGIC = 0x43424353; // "SCBC", little endian
const VERSION = 1;
const HEAD_BYTES = 24;
const ID_BYTES = 36;
const UNITS = 100;

/** A class, and the measurements of which the last one that a cell has is its probability. */
interface Kind extends ClassInfo {
  deciding: number[];
}

/** What the cells of an answer have in common: their measurements are kept as columns, and read on demand. */
interface Columns {
  measurements: { name: string; decimals: number }[];
  names: string[];
  /** Of all cells, measurement by measurement. */
  values: Float32Array;
  count: number;
}

/** A cell that shares the memory of its answer. */
class PackedCell implements Cell {
  readonly isCounted = true;
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
  readonly probability: number;

  constructor(
    readonly id: string,
    private readonly kind: Kind,
    readonly rings: Float64Array[],
    private readonly columns: Columns,
    private readonly place: number,
  ) {
    ({ left: this.left, top: this.top, right: this.right, bottom: this.bottom } = boundsOf(rings[0] as Float64Array));
    let probability = 1;
    for (const row of kind.deciding) probability = this.valueAt(row) ?? probability;
    this.probability = probability;
  }

  get className(): string {
    return this.kind.name;
  }

  get color(): ClassInfo["color"] {
    return this.kind.color;
  }

  get measureNames(): readonly string[] {
    return this.columns.names;
  }

  measure(name: string): number | undefined {
    return this.valueAt(this.columns.names.indexOf(name));
  }

  get measurements(): Record<string, number> {
    const { names } = this.columns;
    const found = names.map((name, row) => [name, this.valueAt(row)] as const);
    return Object.fromEntries(found.filter((item): item is readonly [string, number] => item[1] !== undefined));
  }

  get feature(): Feature {
    const { className: name, color, measurements } = this;
    return featureOf(this.id, this.rings, { objectType: "detection", classification: { name, color }, measurements });
  }

  /** As GeoJSON states it; undefined: the cell has none. */
  private valueAt(row: number): number | undefined {
    const { values, count, measurements } = this.columns;
    const value = row < 0 ? NaN : (values[row * count + this.place] as number);
    if (Number.isNaN(value)) return undefined;
    const shift = 10 ** (measurements[row]?.decimals ?? 0);
    return Math.round(value * shift) / shift;
  }
}

export function decodeBoxCells(data: ArrayBuffer): Cell[] {
  const head = new DataView(data);
  if (head.getUint32(0, true) !== MAGIC || head.getUint8(4) !== VERSION) {
    throw new TypeError("These are not cells of version 1.");
  }
  const wayBytes = head.getUint8(5);
  const [count, vertices, measured, nameBytes] = [8, 12, 16, 20].map((at) => head.getUint32(at, true)) as [
    number,
    number,
    number,
    number,
  ];
  const text = new TextDecoder();
  const { classes, measurements } = JSON.parse(text.decode(new Uint8Array(data, HEAD_BYTES, nameBytes))) as {
    classes: ClassInfo[];
    measurements: Columns["measurements"];
  };
  const names = measurements.map((item) => item.name);
  const kinds = classes.map((kind) => ({ ...kind, deciding: decidingOf(kind.name, names).map((name) => names.indexOf(name)) }));
  let at = HEAD_BYTES + nameBytes;
  const firsts = new Int32Array(data, at, 2 * count);
  const sizes = new Uint32Array(data, (at += 8 * count), count);
  // A copy, so that the answer itself is not kept.
  const values = new Float32Array(data, (at += 4 * count), measured * count).slice();
  const Ways = wayBytes === 2 ? Int16Array : Int32Array;
  const ways = new Ways(data, (at += 4 * measured * count), 2 * (vertices - count));
  const places = new Uint8Array(data, (at += ways.byteLength), count);
  const ids = text.decode(new Uint8Array(data, at + count, ID_BYTES * count));
  const columns = { measurements, names, values, count };
  return closedRings(firsts, sizes, ways).map((ring, cell) => {
    const kind = kinds[places[cell] as number] ?? { name: "", color: GREY, deciding: [] };
    return new PackedCell(ids.slice(ID_BYTES * cell, ID_BYTES * (cell + 1)), kind, [ring], columns, cell);
  });
}

/** The outlines in pixels of level 0, as views of one array: an array for each would take half as much again. */
function closedRings(firsts: Int32Array, sizes: Uint32Array, ways: Int16Array | Int32Array): Float64Array[] {
  const all = new Float64Array(ways.length + 2 * firsts.length);
  const rings: Float64Array[] = [];
  for (let cell = 0, way = 0, at = 0; cell < sizes.length; cell++) {
    const begin = at;
    let [x, y] = [firsts[2 * cell] as number, firsts[2 * cell + 1] as number];
    for (let i = 0; i < (sizes[cell] as number); i++) {
      if (i > 0) {
        x += ways[way++] as number;
        y += ways[way++] as number;
      }
      all[at++] = x / UNITS;
      all[at++] = y / UNITS;
    }
    all.copyWithin(at, begin, begin + 2);
    at += 2;
    rings.push(all.subarray(begin, at));
  }
  return rings;
}
