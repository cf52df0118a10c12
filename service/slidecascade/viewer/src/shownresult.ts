// The result that is laid over the slide: what of it is in view, its layers, and its outlines.
import type { Api } from "./api.ts";
import { colorOfValue, css, lettersOf } from "./colors.ts";
import type { Comparison } from "./comparison.ts";
import { contains, GREY, type Cell, type Findings } from "./findings.ts";
import { drawCells, drawDivided, type Frame } from "./outlines.ts";
import { BY_CLASS, COLORMAPS, defaultFill, type Look, newLook } from "./resultpanel.ts";
import type { Side } from "./overlays.ts";
import type { Stage } from "./stage.ts";

/** Outlines of jobs are shown over about 10x; below, colours of all cells. */
const OUTLINE_UM_PER_PX = 1.05;
/** The same where no pixel size is known: a quarter of level 0. */
const OUTLINE_SCALE = 0.25;
const MAX_OUTLINES = 30_000;
const CLASSES = "classes";

export interface Host {
  stage(): Stage;
  fail(error: unknown): void;
  /** The cells in view (null: too many), the range of the measurement that colours them (null: none), its values. */
  seen(cells: Cell[] | null, range: [number, number] | null, values: number[]): void;
}

export class ShownResult {
  findings: Findings | null = null;
  look: Look = newLook();
  /** The values of the measurement between which the colours are. */
  range: [number, number] = [0, 1];
  selected: Cell | null = null;
  private visible: Cell[] | null = [];
  /** Counts the views that were asked for. */
  private turn = 0;

  constructor(
    private readonly api: Api,
    private readonly comparison: Comparison,
    private readonly host: Host,
  ) {}

  show(findings: Findings, look: Look): void {
    this.findings = findings;
    this.look = look;
  }

  clear(): void {
    this.findings = null;
    this.visible = [];
  }

  /** Draws what the look, or the divider, has changed. */
  changed(): void {
    this.layLayers();
    void this.refresh();
  }

  /** The cell at a point of level 0, the one drawn last of several. */
  at(x: number, y: number): Cell | null {
    return this.filtered().findLast((cell) => contains(cell, x, y)) ?? null;
  }

  /** The cell after the one that is selected. */
  next(): Cell | null {
    const cells = this.filtered();
    const place = cells.findIndex((cell) => cell.id === this.selected?.id);
    return cells[(place + 1) % cells.length] ?? null;
  }

  /** Whether single cells are shown: of a job with many, over about 10x. */
  private isFine(): boolean {
    if (!this.findings?.job || this.findings.kind !== "cells") return true;
    const umPerPx = this.host.stage().umPerPx();
    return umPerPx === null ? (this.host.stage().frame()?.scale ?? 0) >= OUTLINE_SCALE : umPerPx <= OUTLINE_UM_PER_PX;
  }

  /** Fetches what is in view, and draws; unless by then the view is another one. */
  async refresh(): Promise<void> {
    const turn = ++this.turn;
    const { findings } = this;
    const stage = this.host.stage();
    const view = stage.view();
    if (!findings || !view) return;
    this.layLayers();
    let cells: Cell[] | null = null;
    if (this.isFine()) {
      try {
        cells = await findings.within(view);
      } catch (error) {
        this.host.fail(error);
      }
    }
    const { right } = this.comparison;
    const others = right && this.isFine() ? await right.within(view).catch(() => null) : null;
    if (turn !== this.turn || findings !== this.findings) return;
    this.visible = cells && cells.length > MAX_OUTLINES ? null : cells;
    this.comparison.visible = others && others.length <= MAX_OUTLINES ? others : [];
    const values = this.measured();
    this.setRange(values);
    this.host.seen(cells, this.look.colorBy === BY_CLASS ? null : this.range, values);
    stage.redraw();
  }

  private layLayers(): void {
    const { right } = this.comparison;
    if (this.findings) this.layLayersOf(this.findings, right ? "left" : null);
    if (right) this.layLayersOf(right, "right");
  }

  private layLayersOf(findings: Findings, side: Side): void {
    const { look } = this;
    const { job } = findings;
    if (findings.isRunning) return;
    if (!job || findings.kind !== "cells") {
      this.layPicturesOf(findings, side);
      return;
    }
    const lay = (layer: string, opacity: number, colormap: string) => {
      const address = (level: number, x: number, y: number) => this.api.layerAddress(job, layer, colormap, level, x, y);
      this.host.stage().lay(`${job} ${layer} ${colormap}`, opacity, side, address);
    };
    for (const { name } of findings.legends) {
      for (const colormap of COLORMAPS) {
        lay(name, colormap === look.colormap ? (look.layers.get(name) ?? 0) : 0, colormap);
      }
    }
    lay(CLASSES, look.raster && !this.isFine() ? 0.85 : 0, "viridis");
  }

  /** Heatmaps that are a picture of the region, not tiles. */
  private layPicturesOf(findings: Findings, side: Side): void {
    const { id, legends, region, mpp } = findings;
    if (!region || !mpp) return;
    for (const { name, pixel_um } of legends) {
      for (const colormap of COLORMAPS) {
        const opacity = colormap === this.look.colormap ? (this.look.layers.get(name) ?? 0) : 0;
        const fetch = () => findings.heatmap(name, colormap);
        const picture = { x: region.x, y: region.y, pixel: pixel_um / mpp, fetch };
        const laid = this.host.stage().layPicture(`${id} ${name} ${colormap}`, opacity, side, picture);
        void laid.catch((error: unknown) => this.host.fail(error));
      }
    }
  }

  filtered(cells: Cell[] | null = this.visible): Cell[] {
    const { hidden, minimum } = this.look;
    return (cells ?? []).filter((cell) => !hidden.has(cell.className) && cell.probability >= minimum);
  }

  /** The values in view of the measurement that gives the colours, sorted. */
  private measured(): number[] {
    return [...(this.visible ?? []), ...this.comparison.visible]
      .map((cell) => cell.measure(this.look.colorBy))
      .filter((value) => value !== undefined)
      .sort((a, b) => a - b);
  }

  /** The colours of a measurement span all but the 2 % of the cells in view at either end. */
  private setRange(values: readonly number[]): void {
    const at = (share: number, otherwise: number) => values[Math.round(share * (values.length - 1))] ?? otherwise;
    this.range = [at(0.02, 0), at(0.98, 1)];
  }

  draw(context: CanvasRenderingContext2D, frame: Frame): number | null {
    if (!this.findings || !this.look.outlines) return null;
    const { colorBy } = this.look;
    const letters = this.look.letters ? lettersOf(this.findings.classes) : null;
    const [low, high] = this.range;
    const isOfTiles = this.findings.kind === "patches";
    const style = {
      colorOf: (cell: Cell) => {
        if (colorBy === BY_CLASS) return css(cell.color);
        const value = cell.measure(colorBy);
        return value === undefined ? "#888" : colorOfValue(value, low, high);
      },
      letterOf: letters && ((cell: Cell) => letters.get(cell.className) ?? "?"),
      fill: this.look.fill ?? defaultFill(this.findings.kind),
      // Tiles without a class, and outlines around tiles that are filled themselves.
      isHollow: (cell: Cell) => (colorBy === BY_CLASS ? cell.color === GREY : false) || (isOfTiles && !cell.isCounted),
      selected: this.selected?.id ?? null,
    };
    if (!this.comparison.right) return drawCells(context, this.filtered(), frame, style);
    const { clientWidth, clientHeight } = context.canvas;
    return drawDivided(context, { width: clientWidth, height: clientHeight, share: this.comparison.share }, [
      () => drawCells(context, this.filtered(), frame, style),
      () => drawCells(context, this.filtered(this.comparison.visible), frame, style),
    ]);
  }
}
