// A box by keys: arrows move it, with Shift they make it wider, narrower, higher or lower.
import type { Box } from "./wire.ts";

const STEP = 0.1;
const WAYS: Record<string, readonly [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** The middle half of a view, from which a box by keys begins. */
export function middleOf({ x, y, width, height }: Box): Box {
  const round = Math.round;
  return { x: round(x + width / 4), y: round(y + height / 4), width: round(width / 2), height: round(height / 2) };
}

/** `box` after a key, by steps of a tenth of what is in view; null: the key is none of an arrow. */
export function changed(box: Box, key: string, isShift: boolean, view: Box): Box | null {
  const way = WAYS[key];
  if (!way) return null;
  const [dx, dy] = [Math.round(way[0] * STEP * view.width), Math.round(way[1] * STEP * view.height)];
  if (!isShift) return { ...box, x: box.x + dx, y: box.y + dy };
  return { ...box, width: Math.max(1, box.width + dx), height: Math.max(1, box.height + dy) };
}
