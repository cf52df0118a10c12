// The slide by deep zoom, and the canvas over it.
import OpenSeadragon from "openseadragon";
import { REPLACED, STAND_IN, faultOf, type Api, type ProblemError, type Shown } from "./api.ts";
import { BoxDrawing, type Ground } from "./boxdrawing.ts";
import { element, pause } from "./element.ts";
import type { Frame } from "./outlines.ts";
import { Overlays, pyramidOf, type Address, type Picture, type Side } from "./overlays.ts";
import { Pace } from "./pace.ts";
import { composed, type Swatch } from "./picture.ts";
import { forgoInlineStyle, ignoreLateTiles } from "./quirks.ts";
import { BAR_PX, magnification, scaleBar } from "./scale.ts";
import { text } from "./texts.ts";
import type { Box, SlideInfo } from "./wire.ts";

/** How long stand-ins are shown until the tiles are asked for again. */
const AGAIN_MS = 400;
const KEY_ZOOM = 1.5;
/** A quarter of a megabyte each; a large window shows more than 200 at once, and would fetch them again and again. */
const KEPT_TILES = 300;
/** A drawing that takes longer is not repeated for each frame, but moved with the slide until it rests. */
const SMOOTH_MS = 12;

export interface StageEvents {
  /** The canvas is to be drawn; returns how long that took in milliseconds; null: there was nothing to draw. */
  draw(context: CanvasRenderingContext2D, frame: Frame): number | null;
  /** The view has come to rest. */
  rest(): void;
  click(x: number, y: number): void;
  /** A box was drawn; null: none after all. */
  box(box: Box | null): void;
  nextCell(): void;
  /** Whether a coarse stand-in of the slide is shown. */
  standIn(isShown: boolean): void;
  /** A tile of the slide cannot be had; null: nobody says why. */
  missing(fault: ProblemError | null): void;
  /** The file of the slide was replaced by another one. */
  replaced(): void;
}

export class Stage implements Ground {
  readonly root: HTMLElement;
  private readonly viewer: OpenSeadragon.Viewer;
  private readonly canvas = element("canvas", { class: "over", "aria-hidden": "true" });
  private readonly bar = element("div", { class: "bar" });
  private readonly position = element("div", { class: "position" });
  private readonly overlays: Overlays;
  private readonly drawing: BoxDrawing;
  private slide: SlideInfo | null = null;
  private drawn: Frame | null = null;
  private cost = 0;
  private readonly pace = new Pace();
  private isSmooth = true;
  private pending = 0;
  private divider: number | null = null;
  private shown: Shown = { channels: "", standIn: true };
  /** Whether a tile of the slide has been drawn, and whether it was no stand-in. */
  private isShown = false;
  private isExact = false;
  /** What is shown by stand-ins, for whose tiles the stage waits. */
  private awaited: Shown | null = null;

  constructor(
    private readonly api: Api,
    private readonly events: StageEvents,
  ) {
    const host = element("div", { class: "slide" });
    this.root = element("div", { class: "stage" }, host, this.bar, this.position);
    forgoInlineStyle();
    ignoreLateTiles();
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.viewer = OpenSeadragon({
      element: host,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorAutoFade: false,
      navigatorOpacity: 1,
      navigatorBackground: "#fff",
      navigatorSizeRatio: 0.18,
      // Else the view jumps back to the whole slide when its tiles are replaced.
      preserveViewport: true,
      loadTilesWithAjax: true,
      ajaxHeaders: api.headers(),
      animationTime: isStill ? 0 : 0.5,
      immediateRender: isStill,
      maxZoomPixelRatio: 8,
      minZoomImageRatio: 0.6,
      visibilityRatio: 0.2,
      imageLoaderLimit: 6,
      maxImageCacheCount: KEPT_TILES,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false },
    } as OpenSeadragon.Options);
    this.overlays = new Overlays(this.viewer, () => this.dividerAt());
    this.viewer.canvas.append(this.canvas);
    this.drawing = new BoxDrawing(this.viewer, this, this.root, (box) => this.events.box(box));
    this.viewer.canvas.setAttribute("role", "application");
    this.relabel();
    this.listen();
  }

  /** The names of parts in the language chosen. */
  relabel(): void {
    this.viewer.canvas.setAttribute("aria-label", text("stage"));
    const overview = this.viewer.navigator?.element;
    overview?.setAttribute("aria-hidden", "true");
    for (const item of overview?.querySelectorAll("[tabindex]") ?? []) item.removeAttribute("tabindex");
  }

  /** Shows a slide, or an image in place of one. */
  open(slide: SlideInfo, image: string | null, channels: string): Promise<void> {
    this.slide = slide;
    this.shown = { channels, standIn: true };
    this.isShown = this.isExact = false;
    this.overlays.forget();
    this.drawing.forget();
    this.drawn = null;
    const source =
      image === null
        ? this.tiles(slide)
        : { type: "image", url: image };
    return new Promise((resolve) => {
      this.viewer.addOnceHandler("open", () => {
        this.fit();
        this.redraw();
        resolve();
      });
      this.viewer.setAjaxHeaders(this.api.headers(), true);
      this.viewer.open(source as OpenSeadragon.TileSourceSpecifier);
    });
  }

  /** Shows all; OpenSeadragon does not notice that the page was laid out before it had a slide. */
  private fit(): void {
    const { viewport, container } = this.viewer;
    viewport.resize(new OpenSeadragon.Point(container.clientWidth, container.clientHeight), false);
    viewport.goHome(true);
    this.root.classList.add("filled");
  }

  /** Lays a picture over the slide, see `Overlays`. */
  layPicture(name: string, opacity: number, side: Side, picture: Picture): Promise<void> {
    return this.slide ? this.overlays.layPicture(this.slide, name, opacity, side, picture) : Promise.resolve();
  }

  /** Lays tiles over the slide, see `Overlays`. */
  lay(name: string, opacity: number, side: Side, address: Address): void {
    if (this.slide) this.overlays.lay(this.slide, name, opacity, side, address);
  }

  /** Where the divider between two results is, as a part of the width; null: there is none. */
  setDivider(share: number | null): void {
    this.divider = share;
    this.overlays.clip();
    this.redraw();
  }

  private dividerAt(): { at: number; slide: SlideInfo } | null {
    const frame = this.frame();
    if (!frame || !this.slide || this.divider === null) return null;
    return { at: frame.x + (this.divider * this.canvas.clientWidth) / frame.scale, slide: this.slide };
  }

  clearOverlays(): void {
    this.overlays.clear();
  }

  /** Shows other channels of the slide, or in other colours: what the server is asked for. */
  setChannels(channels: string): void {
    this.shown = { channels, standIn: true };
    this.renew();
  }

  /** Shows the slide in another way; the tiles of an image keep their addresses for good, so it is replaced. */
  private renew(): void {
    if (!this.slide) return;
    const tileSource = this.tiles(this.slide) as unknown as OpenSeadragon.TileSource;
    this.viewer.addTiledImage({ tileSource, index: 0, replace: true });
  }

  private tiles(slide: SlideInfo): object {
    const { shown } = this;
    return pyramidOf(slide, (level, x, y) => this.api.tileAddress(slide, shown, level, x, y));
  }

  /** Screen pixels for each pixel of level 0, and the corner of the view. */
  frame(): Frame | null {
    if (!this.slide || this.viewer.world.getItemCount() === 0) return null;
    const bounds = this.viewer.viewport.getBounds(true);
    const { width } = this.slide;
    return { x: bounds.x * width, y: bounds.y * width, scale: this.canvas.clientWidth / (bounds.width * width) };
  }

  /** The part of the slide that is in view, in whole pixels; null: nothing is. */
  view(): Box | null {
    const frame = this.frame();
    if (!frame || !this.slide) return null;
    const { clientWidth, clientHeight } = this.canvas;
    const right = frame.x + clientWidth / frame.scale;
    const bottom = frame.y + clientHeight / frame.scale;
    return this.clipped(frame.x, frame.y, right, bottom);
  }

  /** The part of a rectangle that is on the slide, in whole pixels; null: nothing is. */
  clipped(left: number, top: number, right: number, bottom: number): Box | null {
    if (!this.slide) return null;
    const x = Math.max(0, Math.floor(left));
    const y = Math.max(0, Math.floor(top));
    const width = Math.min(this.slide.width, Math.ceil(right)) - x;
    const height = Math.min(this.slide.height, Math.ceil(bottom)) - y;
    return width > 0 && height > 0 ? { x, y, width, height } : null;
  }

  /** The box that was drawn, or null. */
  get box(): Box | null {
    return this.drawing.box;
  }

  /** A box is drawn next, see `BoxDrawing`. */
  startBox(): void {
    this.drawing.start();
  }

  show(box: Box): void {
    if (!this.slide) return;
    const { width } = this.slide;
    const bounds = new OpenSeadragon.Rect(box.x / width, box.y / width, box.width / width, box.height / width);
    this.viewer.viewport.fitBounds(bounds, true);
  }

  zoom(factor: number): void {
    this.viewer.viewport.zoomBy(factor).applyConstraints();
  }

  home(): void {
    this.viewer.viewport.goHome();
  }

  redraw(): void {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.draw();
    });
  }

  /** The view as a picture: the slide, what lies over it, the scale bar and `lines` below. */
  picture(lines: string[], swatches: Swatch[]): Promise<Blob | null> {
    const slide = this.viewer.drawer.canvas as HTMLCanvasElement;
    return composed({ slide, over: this.canvas, lines, swatches, umPerPx: this.umPerPx() });
  }

  /** Micrometres for each screen pixel; null: the slide does not state them. */
  umPerPx(): number | null {
    const frame = this.frame();
    return frame && this.slide?.mpp ? this.slide.mpp / frame.scale : null;
  }

  private listen(): void {
    const { viewer } = this;
    viewer.addHandler("animation", () => this.follow());
    viewer.addHandler("tile-drawn", () => {
      if (!this.isShown) noteTime("first-picture", 0);
      if (!this.isExact && this.awaited !== this.shown) noteTime("exact-picture", 0);
      this.isExact ||= this.awaited !== this.shown;
      this.isShown = true;
    });
    viewer.addHandler("tile-loaded", ({ tileRequest }) => {
      const arrived = tileRequest as XMLHttpRequest | undefined;
      if (arrived?.getResponseHeader(REPLACED)) this.events.replaced();
      if (arrived?.getResponseHeader(STAND_IN)) void this.awaitTiles();
      const fault = arrived && faultOf(arrived);
      if (fault) this.events.missing(fault);
    });
    viewer.addHandler("tile-load-failed", ({ tiledImage }) => {
      if (tiledImage === viewer.world.getItemAt(0)) this.events.missing(null);
    });
    viewer.addHandler("resize", () => this.redraw());
    viewer.addHandler("animation-finish", () => this.rest());
    viewer.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const point = this.pointAt(event.position);
      this.events.click(point.x, point.y);
    });
    viewer.addHandler("canvas-key", (event) => {
      const { key, shiftKey } = event.originalEvent as KeyboardEvent;
      if (this.drawing.takes(key, shiftKey)) {
        event.preventDefaultAction = true;
        // Else Enter would press the button that has the focus next.
        (event.originalEvent as KeyboardEvent).preventDefault();
        return;
      }
      if (key === "n" || key === "N") this.events.nextCell();
      if (key === "+" || key === "=") this.zoom(KEY_ZOOM);
      if (key === "-") this.zoom(1 / KEY_ZOOM);
      if (!/^(Arrow.*|0)$/.test(key)) event.preventDefaultAction = true;
    });
    viewer.canvas.addEventListener("pointermove", (event) => {
      const area = viewer.canvas.getBoundingClientRect();
      this.showPosition(new OpenSeadragon.Point(event.clientX - area.left, event.clientY - area.top));
    });
  }

  /** Shows the tiles themselves as soon as they are made in place of the stand-ins. */
  private async awaitTiles(): Promise<void> {
    const { slide, shown } = this;
    if (!slide || this.awaited === shown) return;
    this.awaited = shown;
    this.events.standIn(true);
    do await pause(AGAIN_MS);
    while (this.shown === shown && (await this.api.isStandIn(slide, shown).catch(() => true)));
    if (this.shown !== shown) return;
    this.awaited = null;
    this.events.standIn(false);
    this.isExact = false;
    this.shown = { ...shown, standIn: false };
    this.renew();
  }

  /** The place on the slide at a position on the screen. */
  pointAt(position: OpenSeadragon.Point): OpenSeadragon.Point {
    const frame = this.frame() ?? { x: 0, y: 0, scale: 1 };
    return new OpenSeadragon.Point(frame.x + position.x / frame.scale, frame.y + position.y / frame.scale);
  }

  /** While the slide moves: draws anew when that is quick, else moves what was drawn. */
  private follow(): void {
    this.pace.frame(performance.now());
    if (this.pace.isSlow) this.smooth(false);
    this.drawing.place();
    if (this.divider !== null) this.overlays.clip();
    this.showScale();
    const frame = this.frame();
    if (!frame) return;
    if (this.cost < SMOOTH_MS || !this.drawn) {
      this.redraw();
      return;
    }
    const zoom = frame.scale / this.drawn.scale;
    const [dx, dy] = [(this.drawn.x - frame.x) * frame.scale, (this.drawn.y - frame.y) * frame.scale];
    // Whole pixels are copied, parts of them interpolated, which without a GPU takes longer.
    const isPan = Math.abs(zoom - 1) < 1e-6;
    this.canvas.style.transform = isPan
      ? `translate(${wholePx(dx)}px,${wholePx(dy)}px)`
      : `translate(${dx}px,${dy}px) scale(${zoom})`;
  }

  /** Tiles are interpolated; where that is too slow, only at rest. */
  private smooth(isSmooth: boolean): void {
    if (this.isSmooth === isSmooth) return;
    this.isSmooth = isSmooth;
    this.viewer.drawer.setImageSmoothingEnabled(isSmooth);
  }

  private rest(): void {
    this.smooth(true);
    this.redraw();
    this.events.rest();
  }

  private draw(): void {
    const frame = this.frame();
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.viewer.canvas;
    this.canvas.width = clientWidth * ratio;
    this.canvas.height = clientHeight * ratio;
    this.canvas.style.transform = "";
    if (!frame) return;
    const context = this.canvas.getContext("2d") as CanvasRenderingContext2D;
    context.scale(ratio, ratio);
    const cost = this.events.draw(context, frame);
    // A layer that shows nothing costs as much as one that does.
    this.canvas.style.visibility = cost === null ? "hidden" : "";
    this.cost = cost ?? 0;
    if (cost !== null) noteTime("outlines", cost);
    this.drawn = frame;
    if (this.divider !== null) this.overlays.clip();
    this.drawing.place();
    this.showScale();
  }

  private showScale(): void {
    const umPerPx = this.umPerPx();
    this.bar.hidden = umPerPx === null;
    if (umPerPx === null) return;
    const bar = scaleBar(umPerPx, BAR_PX);
    this.bar.style.width = `${bar.widthPx}px`;
    this.bar.textContent = bar.label;
  }

  private showPosition(position: OpenSeadragon.Point): void {
    const frame = this.frame();
    if (!frame) return;
    const point = this.pointAt(position);
    const umPerPx = this.umPerPx();
    const zoom = umPerPx === null ? "" : ` · ${magnification(umPerPx)}`;
    this.position.textContent = `x ${Math.floor(point.x)}, y ${Math.floor(point.y)}${zoom}`;
  }
}

/** The nearest place that is a whole pixel of the screen. */
function wholePx(value: number): number {
  const ratio = devicePixelRatio || 1;
  return Math.round(value * ratio) / ratio;
}

/** Leaves the time in the browser's performance timeline, the last of each name: `make bench-viewer` reads it. */
function noteTime(name: string, cost: number): void {
  performance.clearMarks(name);
  performance.mark(name, { detail: cost });
}
