// The box that is drawn over the slide, by dragging or by keys.
import OpenSeadragon from "openseadragon";
import { changed, middleOf } from "./boxkeys.ts";
import { element } from "./element.ts";
import type { Frame } from "./outlines.ts";
import type { Box } from "./wire.ts";

/** Where on the screen the slide is; null where nothing of it is. */
export interface Ground {
  frame(): Frame | null;
  view(): Box | null;
  pointAt(position: OpenSeadragon.Point): OpenSeadragon.Point;
  /** The part of a rectangle that is on the slide, in whole pixels. */
  clipped(left: number, top: number, right: number, bottom: number): Box | null;
}

export class BoxDrawing {
  private readonly shape = element("div", { class: "box", hidden: true });
  private isDrawing = false;
  private from: OpenSeadragon.Point | null = null;
  private chosen: Box | null = null;

  /** `marked` has the class `drawing` meanwhile. */
  constructor(
    private readonly viewer: OpenSeadragon.Viewer,
    private readonly ground: Ground,
    private readonly marked: HTMLElement,
    private readonly ended: (box: Box | null) => void,
  ) {
    viewer.canvas.append(this.shape);
    viewer.addHandler("canvas-press", (event) => {
      if (!this.isDrawing) return;
      this.from = event.position;
      this.chosen = null;
    });
    viewer.addHandler("canvas-drag", (event) => {
      if (!this.isDrawing || !this.from) return;
      event.preventDefaultAction = true;
      this.choose(this.from, event.position);
    });
    viewer.addHandler("canvas-release", () => {
      if (this.isDrawing && this.from) this.end();
    });
  }

  /** The box that was drawn, or null. */
  get box(): Box | null {
    return this.chosen;
  }

  /** Forgets the box of a slide that is replaced by another one. */
  forget(): void {
    this.chosen = null;
  }

  /** A box is drawn next: by dragging, or by keys from the middle of the view. */
  start(): void {
    const view = this.ground.view();
    if (!view) return;
    this.isDrawing = true;
    this.chosen = middleOf(view);
    this.place();
    this.marked.classList.add("drawing");
    this.viewer.canvas.focus();
  }

  /** Whether a key is one by which a box is drawn; it is then. */
  takes(key: string, isShift: boolean): boolean {
    if (!this.isDrawing) return false;
    if (key === "Enter" || key === "Escape") {
      if (key === "Escape") this.chosen = null;
      this.end();
      return true;
    }
    const view = this.ground.view();
    const box = view && this.chosen && changed(this.chosen, key, isShift, view);
    if (!box) return false;
    this.chosen = this.ground.clipped(box.x, box.y, box.x + box.width, box.y + box.height) ?? this.chosen;
    this.place();
    return true;
  }

  /** Moves the shape to where the box is now. */
  place(): void {
    const frame = this.ground.frame();
    this.shape.hidden = !this.chosen;
    if (!this.chosen || !frame) return;
    const { x, y, width, height } = this.chosen;
    this.shape.style.transform = `translate(${(x - frame.x) * frame.scale}px,${(y - frame.y) * frame.scale}px)`;
    this.shape.style.width = `${width * frame.scale}px`;
    this.shape.style.height = `${height * frame.scale}px`;
  }

  private choose(from: OpenSeadragon.Point, to: OpenSeadragon.Point): void {
    const a = this.ground.pointAt(from);
    const b = this.ground.pointAt(to);
    const [left, right] = [Math.min(a.x, b.x), Math.max(a.x, b.x)];
    this.chosen = this.ground.clipped(left, Math.min(a.y, b.y), right, Math.max(a.y, b.y));
    this.place();
  }

  private end(): void {
    this.isDrawing = false;
    this.from = null;
    this.marked.classList.remove("drawing");
    this.place();
    this.ended(this.chosen);
  }
}
