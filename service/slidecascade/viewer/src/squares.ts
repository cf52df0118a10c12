// The cells of a job by squares of the slide: those that are missing are asked for, those seen last are kept.
import type { Cell } from "./findings.ts";
import type { Box } from "./wire.ts";

/** Small, so that little beside the view is fetched; several are asked for at once, as a rectangle. */
const SQUARE_L0 = 512;
/** Larger rectangles are asked for in parts, which the server and the network work on side by side. */
const MAX_SIDE = 8;
/** More squares are not asked for at once: the view is too coarse for outlines. */
const MAX_SQUARES = 768;
/** What is kept at most, beside what is in view: one to two kilobytes for each cell. */
export const KEPT_CELLS = 40_000;
const KEPT_SQUARES = 4096;

/** In squares: the first column and row, and those after the last. */
export interface Span {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

export class Squares {
  /** In the order of their last use. */
  private readonly kept = new Map<string, Promise<Cell[]>>();
  private readonly sizes = new Map<string, number>();
  private cells = 0;

  /** `fetch`: the cells that meet a box; `region`: where there are any. */
  constructor(
    private readonly region: Box,
    private readonly fetch: (box: Box) => Promise<Cell[]>,
  ) {}

  /** The cells of the squares that meet a box, some of them twice; null: the squares are too many. */
  async meeting(box: Box): Promise<Cell[] | null> {
    const { region } = this;
    const left = Math.floor(Math.max(box.x, region.x) / SQUARE_L0);
    const top = Math.floor(Math.max(box.y, region.y) / SQUARE_L0);
    const right = Math.ceil(Math.min(box.x + box.width, region.x + region.width) / SQUARE_L0);
    const bottom = Math.ceil(Math.min(box.y + box.height, region.y + region.height) / SQUARE_L0);
    if (right <= left || bottom <= top) return [];
    if ((right - left) * (bottom - top) > MAX_SQUARES) return null;
    const wanted = { left, top, right, bottom };
    for (const span of missing(wanted, (column, row) => this.kept.has(keyOf(column, row)))) this.ask(span);
    const parts: Promise<Cell[]>[] = [];
    for (const key of keysOf(wanted)) {
      const part = this.kept.get(key) as Promise<Cell[]>;
      this.kept.delete(key);
      this.kept.set(key, part);
      parts.push(part);
    }
    const found = (await Promise.all(parts)).flat();
    this.forget();
    return found;
  }

  private ask(span: Span): void {
    const [x, y] = [span.left * SQUARE_L0, span.top * SQUARE_L0];
    const [width, height] = [(span.right - span.left) * SQUARE_L0, (span.bottom - span.top) * SQUARE_L0];
    const answer = this.fetch({ x, y, width, height }).then((cells) => sorted(cells, span));
    for (const key of keysOf(span)) {
      const part = answer.then((squares) => squares.get(key) ?? []);
      this.kept.set(key, part);
      part.then(
        (cells) => {
          this.sizes.set(key, cells.length);
          this.cells += cells.length;
        },
        () => this.kept.delete(key),
      );
    }
  }

  /** Forgets the squares that were used least recently, but for those that are being fetched. */
  private forget(): void {
    for (const [key, size] of [...this.kept.keys()].map((key) => [key, this.sizes.get(key)] as const)) {
      if (this.cells <= KEPT_CELLS && this.kept.size <= KEPT_SQUARES) return;
      if (size === undefined) continue;
      this.cells -= size;
      this.kept.delete(key);
      this.sizes.delete(key);
    }
  }
}

/** Rectangles that hold all squares of `wanted` that are not kept: rows with the same ones are joined. */
export function missing(wanted: Span, isKept: (column: number, row: number) => boolean): Span[] {
  const found: Span[] = [];
  for (let row = wanted.top; row < wanted.bottom; row++) {
    let [left, right] = [wanted.left, wanted.right];
    while (left < right && isKept(left, row)) left++;
    while (left < right && isKept(right - 1, row)) right--;
    if (left === right) continue;
    const above = found.at(-1);
    const isJoined = above?.left === left && above.right === right && above.bottom === row;
    if (isJoined) above.bottom = row + 1;
    else found.push({ left, top: row, right, bottom: row + 1 });
  }
  return found.flatMap(parts);
}

function parts({ left, top, right, bottom }: Span): Span[] {
  const made: Span[] = [];
  for (let row = top; row < bottom; row += MAX_SIDE) {
    for (let column = left; column < right; column += MAX_SIDE) {
      const [end, below] = [Math.min(right, column + MAX_SIDE), Math.min(bottom, row + MAX_SIDE)];
      made.push({ left: column, top: row, right: end, bottom: below });
    }
  }
  return made;
}

/** Each cell in all squares of `span` that it meets. */
function sorted(cells: readonly Cell[], span: Span): Map<string, Cell[]> {
  const squares = new Map<string, Cell[]>();
  for (const cell of cells) {
    const [left, right] = [cell.left, cell.right].map((x) => Math.floor(x / SQUARE_L0)) as [number, number];
    const [top, bottom] = [cell.top, cell.bottom].map((y) => Math.floor(y / SQUARE_L0)) as [number, number];
    for (let row = Math.max(top, span.top); row <= Math.min(bottom, span.bottom - 1); row++) {
      for (let column = Math.max(left, span.left); column <= Math.min(right, span.right - 1); column++) {
        const key = keyOf(column, row);
        const square = squares.get(key);
        if (square) square.push(cell);
        else squares.set(key, [cell]);
      }
    }
  }
  return squares;
}

function keyOf(column: number, row: number): string {
  return `${column},${row}`;
}

function keysOf({ left, top, right, bottom }: Span): string[] {
  const keys: string[] = [];
  for (let row = top; row < bottom; row++) for (let column = left; column < right; column++) keys.push(keyOf(column, row));
  return keys;
}
