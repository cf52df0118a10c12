// The cells of a field of a job, from the binary that docs/jobs.md describes.
import { boundsOf, featureOf, GREY, type Cell } from "./findings.ts";
import type { ClassInfo } from "./wire.ts";

const MAGIC = 0x43464353; // "SCFC", little endian
const VERSION = 1;
const HEAD_BYTES = 32;
const MEASURE_NAMES = ["Probability"];

/** The cells of a field; classes that are not in `classes` are grey. */
export function decodeField(data: ArrayBuffer, classes: readonly ClassInfo[]): Cell[] {
  const head = new DataView(data);
  if (head.getUint32(0, true) !== MAGIC || head.getUint8(4) !== VERSION) {
    throw new TypeError("This is not a field of version 1.");
  }
  const [wayBytes, index] = [head.getUint8(6), head.getUint32(8, true)];
  const [count, vertices, nameBytes] = [12, 16, 20].map((at) => head.getUint32(at, true)) as [number, number, number];
  const units = head.getInt32(24, true);
  const text = new TextDecoder().decode(new Uint8Array(data, HEAD_BYTES, nameBytes));
  const names = text.replace(/\0+$/, "").split("\n");
  let at = HEAD_BYTES + nameBytes;
  const firsts = new Int32Array(data, at, 2 * count);
  const sizes = new Uint32Array(data, (at += 8 * count), count);
  const probabilities = new Float32Array(data, (at += 4 * count), count);
  const Ways = wayBytes === 2 ? Int16Array : Int32Array;
  const ways = new Ways(data, (at += 4 * count), 2 * (vertices - count));
  const places = new Uint8Array(data, at + 2 * wayBytes * (vertices - count), count);
  const cells: Cell[] = [];
  for (let cell = 0, way = 0; cell < count; cell++) {
    const size = sizes[cell] as number;
    const ring = new Float64Array(2 * size + 2);
    let [x, y] = [firsts[2 * cell] as number, firsts[2 * cell + 1] as number];
    for (let i = 0; i < size; i++) {
      if (i > 0) {
        x += ways[way++] as number;
        y += ways[way++] as number;
      }
      ring[2 * i] = x / units;
      ring[2 * i + 1] = y / units;
    }
    ring.copyWithin(2 * size, 0, 2);
    const className = names[places[cell] as number] ?? "";
    const probability = probabilities[cell] as number;
    cells.push(cellOf(`${index}-${cell}`, className, probability, ring, classes));
  }
  return cells;
}

function cellOf(
  id: string,
  className: string,
  probability: number,
  ring: Float64Array,
  classes: readonly ClassInfo[],
): Cell {
  const color = classes.find((item) => item.name === className)?.color ?? GREY;
  const measurements: Record<string, number> = { Probability: probability };
  return {
    id,
    className,
    color,
    rings: [ring],
    ...boundsOf(ring),
    probability,
    measurements,
    measureNames: MEASURE_NAMES,
    measure: (name) => measurements[name],
    isCounted: true,
    get feature() {
      return featureOf(id, [ring], { objectType: "detection", classification: { name: className, color }, measurements });
    },
  };
}
