// A picture of the view, with scale bar and legend.
import { element } from "./element.ts";
import { BAR_PX, scaleBar } from "./scale.ts";

const CAPTION_FONT = "13px system-ui, sans-serif";
const CAPTION_LINE_PX = 18;
const CAPTION_LEFT_PX = 8;

/** A coloured square of a legend. */
export interface Swatch {
  color: string;
  label: string;
}

export interface Parts {
  slide: HTMLCanvasElement;
  /** What lies over the slide, as large on the screen. */
  over: HTMLCanvasElement;
  lines: string[];
  swatches: Swatch[];
  umPerPx: number | null;
}

export function composed({ slide, over, lines, swatches, umPerPx }: Parts): Promise<Blob | null> {
  const { clientWidth, clientHeight } = over;
  const ratio = slide.width / clientWidth;
  const made = element("canvas", { width: slide.width });
  const context = made.getContext("2d") as CanvasRenderingContext2D;
  const rows = rowsOf(context, swatches, clientWidth);
  made.height = slide.height + (CAPTION_LINE_PX * (lines.length + rows.length) + 10) * ratio;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, made.width, made.height);
  context.drawImage(slide, 0, 0);
  context.drawImage(over, 0, 0, slide.width, slide.height);
  context.scale(ratio, ratio);
  drawCaption(context, clientHeight, lines, rows);
  if (umPerPx) drawBar(context, umPerPx, clientHeight);
  return new Promise((resolve) => made.toBlob(resolve));
}

function drawBar(context: CanvasRenderingContext2D, umPerPx: number, bottomPx: number): void {
  const bar = scaleBar(umPerPx, BAR_PX);
  context.fillStyle = "#fff";
  context.fillRect(8, bottomPx - 40, bar.widthPx + 16, 32);
  context.fillStyle = "#000";
  context.fillRect(16, bottomPx - 16, bar.widthPx, 4);
  context.font = CAPTION_FONT;
  context.fillText(bar.label, 16, bottomPx - 22);
}

/** Lines of text below the picture, then coloured squares with their labels in as many lines as they need. */
function drawCaption(
  context: CanvasRenderingContext2D,
  topPx: number,
  lines: string[],
  rows: Swatch[][],
): void {
  context.font = CAPTION_FONT;
  context.fillStyle = "#000";
  lines.forEach((line, place) => context.fillText(line, CAPTION_LEFT_PX, topPx + CAPTION_LINE_PX * (place + 1)));
  rows.forEach((row, place) => {
    const baseline = topPx + CAPTION_LINE_PX * (lines.length + place + 1);
    let left = CAPTION_LEFT_PX;
    for (const { color, label } of row) {
      context.fillStyle = color;
      context.fillRect(left, baseline - 11, 12, 12);
      context.lineWidth = 1;
      context.strokeStyle = "#555";
      context.strokeRect(left, baseline - 11, 12, 12);
      context.fillStyle = "#000";
      context.fillText(label, left + 16, baseline);
      left += swatchWidth(context, label);
    }
  });
}

function swatchWidth(context: CanvasRenderingContext2D, label: string): number {
  return 32 + context.measureText(label).width;
}

/** Squares in rows that fit. */
function rowsOf(context: CanvasRenderingContext2D, swatches: Swatch[], widthPx: number): Swatch[][] {
  context.font = CAPTION_FONT;
  const rows: Swatch[][] = [];
  let left = Infinity;
  for (const swatch of swatches) {
    const width = swatchWidth(context, swatch.label);
    if (left + width > widthPx) {
      rows.push([]);
      left = CAPTION_LEFT_PX;
    }
    rows.at(-1)?.push(swatch);
    left += width;
  }
  return rows;
}
