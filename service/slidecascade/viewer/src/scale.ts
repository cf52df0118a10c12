// Sizes on the screen: the scale bar and the magnification.

/** Most that a bar takes of the screen. */
export const BAR_PX = 160;
const NICE = [1, 2, 5];

export interface ScaleBar {
  widthPx: number;
  label: string;
}

/** The longest round length that is at most `maxPx` wide. */
export function scaleBar(umPerPx: number, maxPx: number): ScaleBar {
  let length = 0.1;
  for (let power = -1; power < 6; power++) {
    for (const digit of NICE) {
      const candidate = digit * 10 ** power;
      if (candidate / umPerPx <= maxPx) length = candidate;
    }
  }
  const label = length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`;
  return { widthPx: length / umPerPx, label };
}

/** What an objective would have shown: 10x is 1 um for each pixel. */
export function magnification(umPerPx: number): string {
  return `${Number((10 / umPerPx).toPrecision(2))}×`;
}
