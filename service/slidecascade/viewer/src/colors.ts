// Colours of values, and letters that tell classes apart without colour.
import type { ClassInfo, Color } from "./wire.ts";

/** Eight colours of viridis (matplotlib, CC0), evenly spaced. */
const VIRIDIS: Color[] = [
  [68, 1, 84],
  [70, 50, 127],
  [54, 92, 141],
  [39, 127, 142],
  [31, 161, 135],
  [74, 194, 109],
  [159, 218, 58],
  [253, 231, 37],
];

export function css([red, green, blue]: Color): string {
  return `rgb(${red} ${green} ${blue})`;
}

/** One of a few colours, so that cells of similar values are drawn together. */
export function colorOfValue(value: number, minimum: number, maximum: number): string {
  const share = maximum > minimum ? (value - minimum) / (maximum - minimum) : 0;
  const place = Math.min(VIRIDIS.length - 1, Math.max(0, Math.floor(share * VIRIDIS.length)));
  return css(VIRIDIS[place] as Color);
}

export function gradient(stops: Color[] = VIRIDIS): string {
  return `linear-gradient(to right, ${stops.map(css).join(", ")})`;
}

/** A letter of its name for each class, each one once. */
export function lettersOf(classes: readonly ClassInfo[]): Map<string, string> {
  const letters = new Map<string, string>();
  const taken = new Set<string>();
  for (const { name } of classes) {
    const leaf = name.split(": ").at(-1) ?? name;
    const free = [...leaf.toUpperCase(), ..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"].find(
      (letter) => /\p{L}/u.test(letter) && !taken.has(letter),
    );
    taken.add(free ?? "?");
    letters.set(name, free ?? "?");
  }
  return letters;
}
