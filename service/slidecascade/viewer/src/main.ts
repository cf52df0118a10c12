// The page: its parts, and what passes between them.
import { Api, ProblemError } from "./api.ts";
import { CellPanel, type Seen } from "./cellpanel.ts";
import { ChannelPanel, hasChannels } from "./channels.ts";
import { colorOfValue, css, lettersOf } from "./colors.ts";
import { Comparison } from "./comparison.ts";
import { button, copy, download, element, labelled } from "./element.ts";
import { Estimates } from "./estimates.ts";
import { ExportPanel, type Format, type Scope as ExportScope } from "./exports.ts";
import { centroidOf, contains, type Cell, type Findings, ofJob, ofRegion, ofRunning } from "./findings.ts";
import { JobList } from "./joblist.ts";
import { fromHash, toHash } from "./link.ts";
import { Notices } from "./notices.ts";
import { drawCells, drawDivided, type Frame } from "./outlines.ts";
import { caption, saveFile, swatches } from "./output.ts";
import { BY_CLASS, type Look, newLook, ResultPanel } from "./resultpanel.ts";
import { type Order, RunForm, type Scope } from "./runform.ts";
import { SlideList } from "./slidelist.ts";
import { type Side, Stage } from "./stage.ts";
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
  private readonly estimates = new Estimates(this.api);
  private readonly comparison = new Comparison(
    () => this.stage.setDivider(this.comparison.share),
    () => this.endComparison(),
  );
  private readonly channels = new ChannelPanel((query) => this.stage.setChannels(query));
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
  /** Counts the slides that were chosen. */
  private turn = 0;

  constructor() {
    this.stage = new Stage(this.api, {
      draw: (context, frame) => this.draw(context, frame),
      rest: () => {
        this.showEstimates();
        void this.refresh();
      },
      click: (x, y) => this.select(this.shown().findLast((cell) => contains(cell, x, y)) ?? null),
      box: () => {
        this.form.enableBox();
        this.showEstimates();
      },
      nextCell: () => this.selectNext(),
    });
    const middle = element("main", {}, this.notices.root, this.comparison.bar, this.stage.root, this.hint);
    document.body.append(this.header, this.left, middle, this.right, this.footer);
    this.acceptDrops(middle);
    this.buildPanels();
  }

  async start(): Promise<void> {
    const state = fromHash(location.hash);
    await this.load();
    if (state.slide) {
      this.look = state.look;
      await this.attempt(() => this.openSlide(state.slide as string, state.view, state.channels));
      if (state.job) await this.attempt(() => this.openJob(state.job as string, state.look));
      if (state.job && state.other) await this.attempt(() => this.compare(state.other as string));
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
      chosen: () => void this.offerChannels(),
    });
    this.jobList = new JobList(
      {
        open: (job) => void this.attempt(() => this.openJob(job.id, newLook())),
        cancel: (job) => void this.attempt(async () => void (await this.api.cancel(job.id)), true),
        compare: (job) => void this.attempt(() => this.compare(job.id)),
      },
      (pipeline) => this.infoOf(pipeline)?.kind === "cells",
    );
    this.result = new ResultPanel(() => this.changed());
    this.cellPanel = new CellPanel((cell) => this.cropsOf(cell));
    this.exports = new ExportPanel({
      file: (format, scope) => void this.attempt(() => this.saveFile(format, scope)),
      picture: () => void this.savePicture(),
      link: () => void this.copyLink(),
    });
    this.header.replaceChildren(...this.headerItems());
    this.left.replaceChildren(this.slides.root, this.jobList.root);
    this.channels.relabel();
    this.comparison.relabel(this.findings);
    this.right.replaceChildren(
      this.form.root,
      this.channels.root,
      this.result.root,
      this.comparison.panel,
      this.cellPanel.root,
      this.exports.root,
    );
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

  private async openSlide(id: string, view: Box | null, channels = ""): Promise<void> {
    const turn = ++this.turn;
    const slide = await this.api.slide(id);
    // Another one was chosen meanwhile.
    if (turn !== this.turn) return;
    await this.open(slide, null, channels);
    if (view) this.stage.show(view);
  }

  private async openImage(file: File): Promise<void> {
    this.turn++;
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (!bitmap) {
      this.notices.state(text("unshowable"));
      return;
    }
    const { width, height } = bitmap;
    bitmap.close();
    const unknown = { mpp: null, objective_power: null, vendor: null, content_id: null, channels: [] };
    await this.open({ id: file.name, width, height, ...unknown }, file, "");
  }

  private async open(slide: SlideInfo, image: File | null, channels: string): Promise<void> {
    this.slide = slide;
    this.image = image;
    this.clearFindings();
    this.slides.mark(image ? null : slide.id);
    this.form.setSubject(slide.mpp === null, image === null && this.jobs !== null);
    this.hint.textContent = "";
    this.channels.set(slide, channels);
    void this.offerChannels();
    await this.stage.open(slide, image ? URL.createObjectURL(image) : null, channels);
    this.showEstimates();
  }

  private infoOf(pipeline: string): PipelineInfo | null {
    return this.pipelines.find((item) => item.name === pipeline) ?? null;
  }

  /** Offers the slide's channels to the network of the pipeline that is chosen. */
  private async offerChannels(): Promise<void> {
    const { slide } = this;
    const segmenter = this.form.pipeline?.segmenter;
    const names = slide && hasChannels(slide) ? slide.channels : [];
    const model = segmenter && names.length ? await this.api.model(segmenter).catch(() => null) : null;
    if (slide === this.slide) this.form.setChannels(model?.inputs[0]?.channels ?? [], names);
    this.showEstimates();
  }

  private showEstimates(): void {
    const pipeline = this.form.pipeline?.name ?? "";
    const { slide } = this;
    const whole = slide && { x: 0, y: 0, width: slide.width, height: slide.height };
    this.form.setEstimates([
      [text("estimateView"), this.estimates.seconds(pipeline, this.stage.view(), false)],
      [text("estimateBox"), this.estimates.seconds(pipeline, this.stage.box, false)],
      [text("estimateSlide"), this.jobs && !this.image ? this.estimates.seconds(pipeline, whole, true) : null],
    ]);
  }

  /** The pixels of a cell as the networks of its pipeline are given them. */
  private cropsOf(cell: Cell): Seen[] {
    const { findings, slide } = this;
    const info = findings && this.infoOf(findings.pipeline);
    if (!findings || !slide || !info || this.image || findings.kind !== "cells") return [];
    const [x, y] = centroidOf(cell).map((value) => value.toFixed(3)) as [string, string];
    const asked: Record<string, string> = { pipeline: info.name, x, y };
    if (findings.mpp !== null) asked["mpp"] = String(findings.mpp);
    if (findings.stain !== null) asked["stain"] = findings.stain;
    const models = [info.segmenter, ...info.classifiers].filter((name) => name !== null);
    return models.map((model) => ({ model, picture: this.api.crop(slide.id, model, asked) }));
  }

  private async run(scope: Scope, order: Order): Promise<void> {
    const box = scope === "box" ? this.stage.box : this.stage.view();
    if (!this.slide || !box || this.running) return;
    const request: Record<string, unknown> = { pipeline: order.pipeline, thresholds: order.thresholds };
    if (order.mpp !== null) request["mpp"] = order.mpp;
    if (order.stain) request["stain"] = { method: order.stain };
    if (Object.keys(order.channels).length) request["channels"] = order.channels;
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
      const seconds = (performance.now() - start) / 1000;
      message = `${text("took")} ${numeral(seconds, 1)} s`;
      this.estimates.note(order.pipeline, box, seconds);
      this.showFindings(ofRegion(collection), newLook());
    } finally {
      this.running = null;
      this.form.setRunning(false, message);
      this.showEstimates();
    }
  }

  private async openJob(id: string, look: Look): Promise<void> {
    const job = await this.api.job(id);
    if (!job.slide) return;
    if (this.slide?.id !== job.slide || this.image) await this.openSlide(job.slide, null);
    this.stage.clearOverlays();
    this.showFindings(await this.findingsOf(job), look);
  }

  private findingsOf(job: Job): Promise<Findings> {
    const classes = this.infoOf(job.pipeline)?.classes ?? [];
    return job.status === "running" ? ofRunning(this.api, job, classes) : ofJob(this.api, job.id, classes);
  }

  /** Lays a second result of the slide at the right of a divider. */
  private async compare(id: string): Promise<void> {
    if (!this.findings) return;
    const right = await this.findingsOf(await this.api.job(id));
    this.comparison.begin(this.findings, right);
    this.stage.clearOverlays();
    this.stage.setDivider(this.comparison.share);
    this.changed();
  }

  private endComparison(): void {
    this.stage.setDivider(null);
    this.stage.clearOverlays();
    if (this.findings) this.changed();
  }

  private showFindings(findings: Findings, look: Look): void {
    if (this.findings !== findings) {
      this.stage.clearOverlays();
      this.comparison.end();
    }
    this.jobList.setShown(findings.job, this.slide?.id ?? null);
    this.findings = findings;
    this.look = look;
    this.select(null);
    this.notices.warn(findings.warnings);
    this.result.set(findings, look);
    this.changed();
  }

  private clearFindings(): void {
    this.findings = null;
    this.comparison.end();
    this.jobList.setShown(null, null);
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
    const { right } = this.comparison;
    const others = right && this.isFine() ? await right.within(view).catch(() => null) : null;
    if (findings !== this.findings) return;
    this.visible = cells && cells.length > MAX_OUTLINES ? null : cells;
    this.comparison.visible = others && others.length <= MAX_OUTLINES ? others : [];
    const values = this.measured();
    this.setRange(values);
    this.result.setView(cells);
    this.result.setScale(this.look.colorBy === BY_CLASS ? null : this.range, values);
    this.stage.redraw();
  }

  private layLayers(): void {
    const { right } = this.comparison;
    if (this.findings) this.layLayersOf(this.findings, right ? "left" : null);
    if (right) this.layLayersOf(right, "right");
  }

  private layLayersOf(findings: Findings, side: Side): void {
    const { look } = this;
    if (!findings.job || findings.kind !== "cells" || findings.isRunning) return;
    const { job } = findings;
    const lay = (layer: string, opacity: number, colormap: string) => {
      const address = (level: number, x: number, y: number) => this.api.layerAddress(job, layer, colormap, level, x, y);
      this.stage.lay(`${job} ${layer} ${colormap}`, opacity, side, address);
    };
    for (const { name } of findings.legends) {
      for (const colormap of ["viridis", "jet"]) {
        lay(name, colormap === look.colormap ? (look.layers.get(name) ?? 0) : 0, colormap);
      }
    }
    lay(CLASSES, look.raster && !this.isFine() ? 0.85 : 0, "viridis");
  }

  private shown(cells: Cell[] | null = this.visible): Cell[] {
    const { hidden, minimum } = this.look;
    return (cells ?? []).filter((cell) => !hidden.has(cell.className) && cell.probability >= minimum);
  }

  /** The values in view of the measurement that gives the colours, sorted. */
  private measured(): number[] {
    return [...(this.visible ?? []), ...this.comparison.visible]
      .map((cell) => cell.measurements[this.look.colorBy])
      .filter((value) => value !== undefined)
      .sort((a, b) => a - b);
  }

  /** The colours of a measurement span all but the 2 % of the cells in view at either end. */
  private setRange(values: readonly number[]): void {
    const at = (share: number, otherwise: number) => values[Math.round(share * (values.length - 1))] ?? otherwise;
    this.range = [at(0.02, 0), at(0.98, 1)];
  }

  private draw(context: CanvasRenderingContext2D, frame: Frame): number {
    if (!this.findings || !this.look.outlines) return 0;
    const { colorBy } = this.look;
    const letters = this.look.letters ? lettersOf(this.findings.classes) : null;
    const [low, high] = this.range;
    const style = {
      colorOf: (cell: Cell) => {
        const value = cell.measurements[colorBy];
        if (colorBy === BY_CLASS) return css(cell.color);
        return value === undefined ? "#888" : colorOfValue(value, low, high);
      },
      letterOf: letters && ((cell: Cell) => letters.get(cell.className) ?? "?"),
      selected: this.selected?.id ?? null,
    };
    if (!this.comparison.right) return drawCells(context, this.shown(), frame, style);
    const { clientWidth, clientHeight } = context.canvas;
    return drawDivided(context, { width: clientWidth, height: clientHeight, share: this.comparison.share }, [
      () => drawCells(context, this.shown(), frame, style),
      () => drawCells(context, this.shown(this.comparison.visible), frame, style),
    ]);
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

  private async saveFile(format: Format, scope: ExportScope): Promise<void> {
    const problem = await saveFile(this.api, this.findings, this.shown(), format, scope);
    this.exports.say(problem ? text(problem) : "");
  }

  private async savePicture(): Promise<void> {
    const lines = caption(this.slide?.id, this.findings);
    const picture = await this.stage.picture(lines, swatches(this.findings, this.look, this.range));
    if (picture) download("view.png", picture);
  }

  private async copyLink(): Promise<void> {
    const slide = this.image ? null : (this.slide?.id ?? null);
    const channels = this.slide && hasChannels(this.slide) ? this.channels.query() : "";
    const shown = { job: this.findings?.job ?? null, other: this.comparison.right?.job ?? null, look: this.look };
    const state = { slide, view: this.stage.view(), channels, ...shown };
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
    await this.followJob();
    if (this.jobs && (await this.estimates.learn(this.jobs).catch(() => false))) this.showEstimates();
    if (this.jobs?.some((job) => job.status === "queued" || job.status === "running")) {
      this.polling = window.setTimeout(() => void this.poll(), POLL_MS);
    }
  }

  /** Shows what the running job that is watched has found since, and its result once it has ended. */
  private async followJob(): Promise<void> {
    const { findings } = this;
    const job = findings?.isRunning ? this.jobs?.find((item) => item.id === findings.job) : undefined;
    if (!findings || !job) return;
    if (job.status === "succeeded") {
      this.showFindings(await ofJob(this.api, job.id, findings.classes), this.look);
    } else if (await findings.update?.()) {
      this.result.set(findings, this.look);
      await this.refresh();
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
