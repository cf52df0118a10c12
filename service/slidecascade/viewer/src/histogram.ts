// How the values of a measurement are spread: bars in the colours of the scale, and as a sentence.
import { colorOfValue } from "./colors.ts";
import { numeral, text } from "./texts.ts";

const BARS = 32;
const HEIGHT = 40;
const SVG = "http://www.w3.org/2000/svg";

/** Bars from `low` to `high`; values beyond are in the first and the last one. */
export function histogram(values: readonly number[], [low, high]: [number, number]): SVGElement {
  const counts = new Array<number>(BARS).fill(0);
  for (const value of values) {
    const share = high > low ? (value - low) / (high - low) : 0;
    const place = Math.min(BARS - 1, Math.max(0, Math.floor(share * BARS)));
    counts[place] = (counts[place] as number) + 1;
  }
  const most = Math.max(1, ...counts);
  const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  const label = `${numeral(values.length)} ${text("values")}, ${text("mean")} ${numeral(mean, 3)}`;
  const picture = made("svg", { viewBox: `0 0 ${BARS} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "histogram" });
  picture.setAttribute("aria-label", label);
  const title = made("title", {});
  title.textContent = label;
  picture.append(title);
  counts.forEach((count, place) => {
    const height = (count / most) * HEIGHT;
    const fill = colorOfValue(low + ((place + 0.5) / BARS) * (high - low), low, high);
    picture.append(made("rect", { x: place, y: HEIGHT - height, width: 0.9, height, fill }));
  });
  return picture;
}

function made(name: string, attributes: Record<string, string | number>): SVGElement {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  return node;
}
