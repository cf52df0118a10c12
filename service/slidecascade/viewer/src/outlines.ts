// Outlines of cells on a canvas. Many polygons share a path: one path for all is slow to stroke, one for each too.
import type { Cell } from "./findings.ts";

const BATCH = 20;

/** What of level 0 a canvas shows: its left top corner, and screen pixels for each pixel of level 0. */
export interface Frame {
  x: number;
  y: number;
  scale: number;
}

export interface Style {
  colorOf(cell: Cell): string;
  /** A letter for each class, or null: none. */
  letterOf: ((cell: Cell) => string) | null;
  /** How opaque what is within outlines is, from 0 to 1, and what is not filled. */
  fill: number;
  isHollow(cell: Cell): boolean;
  selected: string | null;
}

/** Draws `cells` and returns how long it took in milliseconds. */
export function drawCells(
  context: CanvasRenderingContext2D,
  cells: readonly Cell[],
  frame: Frame,
  style: Style,
): number {
  const start = performance.now();
  const byColor = new Map<string, Cell[]>();
  for (const cell of cells) {
    const color = style.colorOf(cell);
    const group = byColor.get(color);
    if (group) group.push(cell);
    else byColor.set(color, [cell]);
  }
  context.lineJoin = "round";
  context.lineWidth = frame.scale > 0.5 ? 2 : 1;
  for (const [color, group] of byColor) {
    context.strokeStyle = color;
    for (let first = 0; first < group.length; first += BATCH) {
      const batch = group.slice(first, first + BATCH);
      if (style.fill > 0) fill(context, batch, frame, style);
      context.beginPath();
      for (const cell of batch) trace(context, cell, frame);
      context.stroke();
    }
  }
  drawSelected(context, cells, frame, style.selected);
  if (style.letterOf) drawLetters(context, cells, frame, style.letterOf);
  return performance.now() - start;
}

/** Draws what is at the left and at the right of a divider; returns how long it took in milliseconds. */
export function drawDivided(
  context: CanvasRenderingContext2D,
  { width, height, share }: { width: number; height: number; share: number },
  sides: [() => number, () => number],
): number {
  const at = share * width;
  const boxes = [
    [0, at],
    [at, width - at],
  ] as const;
  const costs = sides.map((draw, place) => {
    const [left, wide] = boxes[place] as readonly [number, number];
    context.save();
    context.beginPath();
    context.rect(left, 0, wide, height);
    context.clip();
    const cost = draw();
    context.restore();
    return cost;
  });
  for (const [color, wide] of [["#000", 4], ["#fff", 2]] as const) {
    context.fillStyle = color;
    context.fillRect(at - wide / 2, 0, wide, height);
  }
  return costs.reduce((sum, cost) => sum + cost, 0);
}

/** Fills what lies between outer rings and holes. */
function fill(context: CanvasRenderingContext2D, cells: readonly Cell[], frame: Frame, style: Style): void {
  context.globalAlpha = style.fill;
  context.fillStyle = context.strokeStyle;
  for (const cell of cells) {
    if (style.isHollow(cell)) continue;
    context.beginPath();
    trace(context, cell, frame);
    context.fill("evenodd");
  }
  context.globalAlpha = 1;
}

function trace(context: CanvasRenderingContext2D, cell: Cell, { x, y, scale }: Frame): void {
  for (const ring of cell.rings) {
    context.moveTo(((ring[0] as number) - x) * scale, ((ring[1] as number) - y) * scale);
    for (let i = 2; i < ring.length; i += 2) {
      context.lineTo(((ring[i] as number) - x) * scale, ((ring[i + 1] as number) - y) * scale);
    }
  }
}

function drawSelected(
  context: CanvasRenderingContext2D,
  cells: readonly Cell[],
  frame: Frame,
  selected: string | null,
): void {
  const cell = cells.find((item) => item.id === selected);
  if (!cell) return;
  for (const [color, width] of [["#000", 6], ["#fff", 3]] as const) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    trace(context, cell, frame);
    context.stroke();
  }
}

function drawLetters(
  context: CanvasRenderingContext2D,
  cells: readonly Cell[],
  { x, y, scale }: Frame,
  letterOf: (cell: Cell) => string,
): void {
  context.font = "bold 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 3;
  context.strokeStyle = "#fff";
  context.fillStyle = "#000";
  for (const cell of cells) {
    if ((cell.right - cell.left) * scale < 14) continue;
    const centerX = ((cell.left + cell.right) / 2 - x) * scale;
    const centerY = ((cell.top + cell.bottom) / 2 - y) * scale;
    const letter = letterOf(cell);
    context.strokeText(letter, centerX, centerY);
    context.fillText(letter, centerX, centerY);
  }
}
