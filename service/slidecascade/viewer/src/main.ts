// The page: its parts, and what passes between them.
import { Api, ProblemError } from "./api.ts";
import { colorOfValue, css, lettersOf } from "./colors.ts";
import { button, copy, download, element, labelled } from "./element.ts";
import { csvOf, ExportPanel, geojsonOf } from "./exports.ts";
import { contains, type Cell, type Findings, ofJob, ofRegion } from "./findings.ts";
import { JobList } from "./joblist.ts";
import { fromHash, toHash } from "./link.ts";
import { Notices } from "./notices.ts";
import { drawCells, type Frame } from "./outlines.ts";
import type { Swatch } from "./picture.ts";
import { BY_CLASS, CellPanel, type Look, newLook, ResultPanel } from "./resultpanel.ts";
import { type Order, RunForm, type Scope } from "./runform.ts";
import { SlideList } from "./slidelist.ts";
import { Stage } from "./stage.ts";
import { currentLanguage, numeral, setLanguage, text } from "./texts.ts";
import type { Box, Job, PipelineInfo, SlideInfo } from "./wire.ts";

/** Outlines of jobs are shown over about 10x; below, colours of all cells. */
const OUTLINE_UM_PER_PX = 1.05;
/** The same where no pixel size is known: a quarter of level 0. */
const OUTLINE_SCALE = 0.25;
const MAX_OUTLINES = 30_000;
const POLL_MS = 1500;
const CLASSES = "classes";

class Page {
  private readonly api = new Api();
  private readonly notices = new Notices();
  private readonly stage: Stage;
  private readonly hint = element("p", { class: "hint" });
  private readonly left = element("div", { class: "side" });
  private readonly right = element("div", { class: "side" });
  private readonly header = element("header");
  private readonly footer = element("footer");
  private slides!: SlideList;
  private form!: RunForm;
  private jobList!: JobList;
  private result!: ResultPanel;
  private cellPanel!: CellPanel;
  private exports!: ExportPanel;

  private slideIds: string[] = [];
  private pipelines: PipelineInfo[] = [];
  private jobs: Job[] | null = null;
  private slide: SlideInfo | null = null;
  private image: File | null = null;
  private findings: Findings | null = null;
  private look: Look = newLook();
  private visible: Cell[] | null = [];
  private selected: Cell | null = null;
  private running: AbortController | null = null;
  private range: [number, number] = [0, 1];
  private polling = 0;

  constructor() {
    this.stage = new Stage(this.api, {
      draw: (context, frame) => this.draw(context, frame),
      rest: () => void this.refresh(),
      click: (x, y) => this.select(this.shown().findLast((cell) => contains(cell, x, y)) ?? null),
      box: () => this.form.enableBox(),
      nextCell: () => this.selectNext(),
    });
    const middle = element("main", {}, this.notices.root, this.stage.root, this.hint);
    document.body.append(this.header, this.left, middle, this.right, this.footer);
    this.acceptDrops(middle);
    this.buildPanels();
  }

  async start(): Promise<void> {
    const state = fromHash(location.hash);
    await this.load();
    if (state.slide) {
      this.look = state.look;
      await this.attempt(() => this.openSlide(state.slide as string, state.view));
      if (state.job) await this.attempt(() => this.openJob(state.job as string, state.look));
    }
    addEventListener("hashchange", () => location.reload());
  }

  /** Everything that the server lists; asked for again with another key. */
  private async load(): Promise<void> {
    await this.attempt(async () => {
      [this.slideIds, this.pipelines] = await Promise.all([this.api.slideIds(), this.api.pipelines()]);
      this.slides.set(this.slideIds);
      this.form.setPipelines(this.pipelines);
    });
    await this.poll();
  }

  /** Panels in the language chosen, with what is known. */
  private buildPanels(): void {
    document.documentElement.lang = currentLanguage();
    const open = (id: string) => void this.attempt(() => this.openSlide(id, null));
    this.slides = new SlideList(this.api, open, (file) => void this.attempt(() => this.openImage(file)));
    this.form = new RunForm({
      run: (scope, order) => void this.attempt(() => this.run(scope, order)),
      draw: () => this.stage.startBox(),
      stop: () => this.running?.abort(),
    });
    this.jobList = new JobList({
      open: (job) => void this.attempt(() => this.openJob(job.id, newLook())),
      cancel: (job) => void this.attempt(async () => void (await this.api.cancel(job.id)), true),
    });
    this.result = new ResultPanel(() => this.changed());
    this.cellPanel = new CellPanel();
    this.exports = new ExportPanel({
      geojson: () => download("cells.geojson", geojsonOf(this.shown())),
      csv: () => download("cells.csv", csvOf(this.shown())),
      picture: () => void this.savePicture(),
      link: () => void this.copyLink(),
    });
    this.header.replaceChildren(...this.headerItems());
    this.left.replaceChildren(this.slides.root, this.jobList.root);
    this.right.replaceChildren(this.form.root, this.result.root, this.cellPanel.root, this.exports.root);
    this.footer.replaceChildren(element("p", { class: "research" }, text("research")));
    this.hint.textContent = this.slide ? "" : text("choose");
    this.stage.relabel();
  }

  private headerItems(): HTMLElement[] {
    const tool = (name: string, label: string, act: () => void) => button(name, act, { "aria-label": label, title: label });
    const key = element("input", { type: "password", autocomplete: "off", name: "key" });
    const login = element("form", { class: "login" }, labelled(text("key"), key), element("button", {}, text("login")));
    login.addEventListener("submit", (event) => {
      event.preventDefault();
      this.api.setKey(key.value);
      this.notices.clear();
      void this.load();
    });
    const { stage } = this;
    return [
      element("h1", {}, "SlideCascade"),
      tool("+", text("zoomIn"), () => stage.zoom(2)),
      tool("−", text("zoomOut"), () => stage.zoom(0.5)),
      tool("⌂", text("home"), () => stage.home()),
      element("span", { class: "gap" }),
      login,
      tool("◐", text("theme"), () => switchTheme()),
      button(text("language"), () => this.switchLanguage(), { lang: currentLanguage() === "en" ? "de" : "en" }),
    ];
  }

  private switchLanguage(): void {
    setLanguage(currentLanguage() === "en" ? "de" : "en");
    this.buildPanels();
    this.slides.set(this.slideIds);
    this.slides.mark(this.slide?.id ?? null);
    this.form.setPipelines(this.pipelines);
    if (this.slide) this.form.setSubject(this.slide.mpp === null, this.image === null && this.jobs !== null);
    this.showJobs();
    if (this.findings) this.showFindings(this.findings, this.look);
    this.cellPanel.set(this.selected);
  }

  private async attempt(act: () => Promise<void>, thenPoll = false): Promise<void> {
    this.notices.clear();
    try {
      await act();
      if (thenPoll) await this.poll();
    } catch (error) {
      this.notices.fail(error);
    }
  }

  private async openSlide(id: string, view: Box | null): Promise<void> {
    await this.open(await this.api.slide(id), null);
    if (view) this.stage.show(view);
  }

  private async openImage(file: File): Promise<void> {
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (!bitmap) {
      this.notices.state(text("unshowable"));
      return;
    }
    const { width, height } = bitmap;
    bitmap.close();
    const about = { id: file.name, width, height, mpp: null, objective_power: null, vendor: null, content_id: null };
    await this.open(about, file);
  }

  private async open(slide: SlideInfo, image: File | null): Promise<void> {
    this.slide = slide;
    this.image = image;
    this.clearFindings();
    this.slides.mark(image ? null : slide.id);
    this.form.setSubject(slide.mpp === null, image === null && this.jobs !== null);
    this.hint.textContent = "";
    await this.stage.open(slide, image ? URL.createObjectURL(image) : null);
  }

  private async run(scope: Scope, order: Order): Promise<void> {
    const box = scope === "box" ? this.stage.box : this.stage.view();
    if (!this.slide || !box || this.running) return;
    const request: Record<string, unknown> = { pipeline: order.pipeline, thresholds: order.thresholds };
    if (order.mpp !== null) request["mpp"] = order.mpp;
    if (!this.image) request["slide"] = this.slide.id;
    if (scope === "slide") {
      await this.api.submit(request);
      await this.poll();
      return;
    }
    request["region"] = box;
    const start = performance.now();
    this.running = new AbortController();
    this.form.setRunning(true, text("running"));
    let message = "";
    try {
      const collection = await this.api.region(request, this.image, this.running.signal);
      message = `${text("took")} ${numeral((performance.now() - start) / 1000, 1)} s`;
      this.showFindings(ofRegion(collection), newLook());
    } finally {
      this.running = null;
      this.form.setRunning(false, message);
    }
  }

  private async openJob(id: string, look: Look): Promise<void> {
    const job = await this.api.job(id);
    if (!job.slide) return;
    if (this.slide?.id !== job.slide || this.image) await this.openSlide(job.slide, null);
    const classes = this.pipelines.find((item) => item.name === job.pipeline)?.classes ?? [];
    this.stage.clearOverlays();
    this.showFindings(await ofJob(this.api, id, classes), look);
  }

  private showFindings(findings: Findings, look: Look): void {
    if (this.findings !== findings) this.stage.clearOverlays();
    this.findings = findings;
    this.look = look;
    this.select(null);
    this.notices.warn(findings.warnings);
    this.result.set(findings, look);
    this.changed();
  }

  private clearFindings(): void {
    this.findings = null;
    this.visible = [];
    this.select(null);
    this.notices.warn([]);
    this.stage.clearOverlays();
  }

  private changed(): void {
    this.layLayers();
    void this.refresh();
  }

  /** Whether single cells are shown: of a job with many, over about 10x. */
  private isFine(): boolean {
    if (!this.findings?.job || this.findings.kind !== "cells") return true;
    const umPerPx = this.stage.umPerPx();
    return umPerPx === null ? (this.stage.frame()?.scale ?? 0) >= OUTLINE_SCALE : umPerPx <= OUTLINE_UM_PER_PX;
  }

  /** Fetches what is in view, and draws. */
  private async refresh(): Promise<void> {
    const { findings } = this;
    const view = this.stage.view();
    if (!findings || !view) return;
    this.layLayers();
    let cells: Cell[] | null = null;
    if (this.isFine()) {
      try {
        cells = await findings.within(view);
      } catch (error) {
        this.notices.fail(error);
      }
    }
    if (findings !== this.findings) return;
    this.visible = cells && cells.length > MAX_OUTLINES ? null : cells;
    this.setRange();
    this.result.setView(cells);
    this.result.setScale(this.look.colorBy === BY_CLASS ? null : this.range);
    this.stage.redraw();
  }

  private layLayers(): void {
    const { findings, look } = this;
    if (!findings?.job || findings.kind !== "cells") return;
    const { job } = findings;
    const lay = (layer: string, opacity: number, colormap: string) => {
      const address = (level: number, x: number, y: number) => this.api.layerAddress(job, layer, colormap, level, x, y);
      this.stage.lay(`${layer} ${colormap}`, opacity, address);
    };
    for (const { name } of findings.legends) {
      for (const colormap of ["viridis", "jet"]) {
        lay(name, colormap === look.colormap ? (look.layers.get(name) ?? 0) : 0, colormap);
      }
    }
    lay(CLASSES, look.raster && !this.isFine() ? 0.85 : 0, "viridis");
  }

  private shown(): Cell[] {
    const { hidden, minimum } = this.look;
    return (this.visible ?? []).filter((cell) => !hidden.has(cell.className) && cell.probability >= minimum);
  }

  /** The colours of a measurement span all but the 2 % of the cells in view at either end. */
  private setRange(): void {
    const values = (this.visible ?? [])
      .map((cell) => cell.measurements[this.look.colorBy])
      .filter((value) => value !== undefined)
      .sort((a, b) => a - b);
    const at = (share: number, otherwise: number) => values[Math.round(share * (values.length - 1))] ?? otherwise;
    this.range = [at(0.02, 0), at(0.98, 1)];
  }

  private draw(context: CanvasRenderingContext2D, frame: Frame): number {
    if (!this.findings || !this.look.outlines) return 0;
    const { colorBy } = this.look;
    const letters = this.look.letters ? lettersOf(this.findings.classes) : null;
    const [low, high] = this.range;
    return drawCells(context, this.shown(), frame, {
      colorOf: (cell) => {
        const value = cell.measurements[colorBy];
        if (colorBy === BY_CLASS) return css(cell.color);
        return value === undefined ? "#888" : colorOfValue(value, low, high);
      },
      letterOf: letters && ((cell) => letters.get(cell.className) ?? "?"),
      selected: this.selected?.id ?? null,
    });
  }

  private select(cell: Cell | null): void {
    this.selected = cell;
    this.cellPanel.set(cell);
    this.stage.redraw();
  }

  private selectNext(): void {
    const cells = this.shown();
    const place = cells.findIndex((cell) => cell.id === this.selected?.id);
    this.select(cells[(place + 1) % cells.length] ?? null);
  }

  private async savePicture(): Promise<void> {
    const title = [this.slide?.id, this.findings?.pipeline].filter(Boolean).join(" · ");
    const picture = await this.stage.picture([title, text("research")], this.swatches());
    if (picture) download("view.png", picture);
  }

  /** What the colours of outlines mean. */
  private swatches(): Swatch[] {
    const { colorBy } = this.look;
    if (colorBy === BY_CLASS) {
      return (this.findings?.classes ?? []).map(({ name, color }) => ({ color: css(color), label: name }));
    }
    const [low, high] = this.range;
    return [0, 0.5, 1].map((share) => {
      const value = low + share * (high - low);
      return { color: colorOfValue(value, low, high), label: `${colorBy} ${numeral(value, 2)}` };
    });
  }

  private async copyLink(): Promise<void> {
    const slide = this.image ? null : (this.slide?.id ?? null);
    const state = { slide, view: this.stage.view(), job: this.findings?.job ?? null, look: this.look };
    history.replaceState(null, "", toHash(state));
    await copy(location.href, "link.txt");
    this.exports.say(text("copied"));
  }

  /** Follows the jobs while there are any that run. */
  private async poll(): Promise<void> {
    clearTimeout(this.polling);
    try {
      this.jobs = await this.api.jobs();
    } catch (error) {
      const isOff = error instanceof ProblemError && error.problem.status === 404;
      this.jobs = null;
      if (!isOff) this.notices.fail(error);
    }
    this.showJobs();
    if (this.slide) this.form.setSubject(this.slide.mpp === null, this.image === null && this.jobs !== null);
    if (this.jobs?.some((job) => job.status === "queued" || job.status === "running")) {
      this.polling = window.setTimeout(() => void this.poll(), POLL_MS);
    }
  }

  private showJobs(): void {
    if (this.jobs) this.jobList.set(this.jobs);
    else this.jobList.setNote(text("jobsOff"));
  }

  private acceptDrops(place: HTMLElement): void {
    place.addEventListener("dragover", (event) => event.preventDefault());
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer?.files[0];
      if (file) void this.attempt(() => this.openImage(file));
    });
  }
}

function switchTheme(): void {
  const { dataset } = document.documentElement;
  const isDark = dataset["theme"] ? dataset["theme"] === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset["theme"] = isDark ? "light" : "dark";
}

void new Page().start();
