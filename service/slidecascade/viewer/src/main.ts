// The page: its parts, and what passes between them.
import { Api, ProblemError } from "./api.ts";
import { CellPanel, type Seen } from "./cellpanel.ts";
import { ChannelPanel, hasChannels, RGB } from "./channels.ts";
import { Comparison } from "./comparison.ts";
import { button, copy, download, element, labelled } from "./element.ts";
import { Estimates } from "./estimates.ts";
import { ExportPanel, type Format, type Scope as ExportScope } from "./exports.ts";
import { centroidOf, type Cell, type Findings, ofJob, ofRegion, ofRunning } from "./findings.ts";
import { JobList } from "./joblist.ts";
import { fromHash, toHash } from "./link.ts";
import { Notices } from "./notices.ts";
import { caption, saveFile, swatches } from "./output.ts";
import { COLORMAPS, type Look, newLook, ResultPanel } from "./resultpanel.ts";
import { type Order, RunForm, type Scope } from "./runform.ts";
import { ShownResult } from "./shownresult.ts";
import { SlideList } from "./slidelist.ts";
import { Stage } from "./stage.ts";
import { currentLanguage, numeral, setLanguage, text } from "./texts.ts";
import type { Box, Job, ModelInfo, PipelineInfo, SlideInfo } from "./wire.ts";

const POLL_MS = 1500;

class Page {
  private readonly api = new Api();
  private readonly notices = new Notices();
  private readonly stage: Stage;
  private readonly hint = element("p", { class: "hint", role: "status" });
  private readonly left = element("div", { class: "side" });
  private readonly right = element("div", { class: "side" });
  private readonly estimates = new Estimates(this.api);
  private readonly comparison = new Comparison(
    () => this.stage.setDivider(this.comparison.share),
    () => this.endComparison(),
  );
  private readonly shown = new ShownResult(this.api, this.comparison, {
    stage: () => this.stage,
    fail: (error) => this.notices.fail(error),
    seen: (cells, range, values) => {
      this.result.setView(cells);
      this.result.setScale(range, values);
    },
  });
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
  private models: ModelInfo[] = [];
  private jobs: Job[] | null = null;
  private slide: SlideInfo | null = null;
  private image: File | null = null;
  private running: AbortController | null = null;
  private polling = 0;
  /** Whether it was stated that tiles of the slide are missing. */
  private isFaulty = false;
  /** Counts the slides that were chosen. */
  private turn = 0;

  constructor() {
    this.stage = new Stage(this.api, {
      draw: (context, frame) => this.shown.draw(context, frame),
      rest: () => {
        this.showEstimates();
        void this.shown.refresh();
      },
      click: (x, y) => this.select(this.shown.at(x, y)),
      box: (box) => {
        this.form.setRunning(false, "");
        this.form.setBox(box !== null);
        this.showEstimates();
      },
      standIn: (isShown) => {
        this.hint.textContent = isShown ? text("preparing") : "";
      },
      nextCell: () => this.select(this.shown.next()),
      missing: (fault) => void this.stateFault(fault),
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
      await this.attempt(() => this.openSlide(state.slide as string, state.view, state.channels));
      if (state.job) await this.attempt(() => this.openJob(state.job as string, state.look));
      if (state.job && state.other) await this.attempt(() => this.compare(state.other as string));
    }
    addEventListener("hashchange", () => location.reload());
  }

  /** Everything that the server lists; asked for again with another key. */
  private async load(): Promise<void> {
    await this.attempt(async () => {
      const asked = [this.api.slideIds(), this.api.pipelines(), this.api.models()] as const;
      [this.slideIds, this.pipelines, this.models] = await Promise.all(asked);
      this.slides.set(this.slideIds);
      this.offerPipelines();
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
      draw: () => {
        this.stage.startBox();
        this.form.setRunning(false, this.slide ? text("drawing") : "");
      },
      stop: () => this.running?.abort(),
      chosen: () => this.offerChannels(),
    });
    this.jobList = new JobList(
      {
        open: (job) => void this.attempt(() => this.openJob(job.id, newLook())),
        cancel: (job) => void this.attempt(async () => void (await this.api.cancel(job.id)), true),
        compare: (job) => void this.attempt(() => this.compare(job.id)),
      },
      (pipeline) => this.infoOf(pipeline)?.kind === "cells",
    );
    this.result = new ResultPanel(() => this.shown.changed());
    this.cellPanel = new CellPanel((cell) => this.cropsOf(cell));
    this.exports = new ExportPanel({
      file: (format, scope) => void this.attempt(() => this.saveFile(format, scope)),
      picture: () => void this.savePicture(),
      link: () => void this.copyLink(),
    });
    this.header.replaceChildren(...this.headerItems());
    this.left.replaceChildren(this.slides.root, this.jobList.root);
    this.channels.relabel();
    this.comparison.relabel(this.shown.findings);
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
    this.offerPipelines();
    if (this.slide) this.form.setSubject(this.slide.mpp === null, this.image === null && this.jobs !== null);
    this.showJobs();
    if (this.shown.findings) this.showFindings(this.shown.findings, this.shown.look);
    this.cellPanel.set(this.shown.selected);
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
    const { slide, fault } = await this.api.slide(id);
    // Another one was chosen meanwhile.
    if (turn !== this.turn) return;
    await this.open(slide, null, channels);
    if (fault) await this.stateFault(fault);
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
    this.isFaulty = false;
    this.image = image;
    this.clearFindings();
    this.slides.mark(image ? null : slide.id);
    this.form.setSubject(slide.mpp === null, image === null && this.jobs !== null);
    this.hint.textContent = "";
    this.channels.set(slide, channels);
    this.offerPipelines();
    await this.stage.open(slide, image ? URL.createObjectURL(image) : null, channels);
    this.showEstimates();
  }

  private infoOf(pipeline: string): PipelineInfo | null {
    return this.pipelines.find((item) => item.name === pipeline) ?? null;
  }

  /** Offers pipelines, first those for what the slide is: colours, or channels of its own. */
  private offerPipelines(): void {
    const ofChannels = this.slide !== null && hasChannels(this.slide);
    const fits = (item: PipelineInfo) => (this.channelsOf(item).join(",") === RGB) !== ofChannels;
    this.form.setPipelines(this.pipelines, fits);
  }

  /** What the first network of a pipeline takes. */
  private channelsOf(pipeline: PipelineInfo): string[] {
    const first = pipeline.segmenter ?? pipeline.classifiers[0];
    return this.models.find((model) => model.name === first)?.inputs[0]?.channels ?? [];
  }

  /** Offers the slide's channels to the network of the pipeline that is chosen. */
  private offerChannels(): void {
    const { pipeline } = this.form;
    const names = this.slide && hasChannels(this.slide) ? this.slide.channels : [];
    this.form.setChannels(pipeline?.segmenter ? this.channelsOf(pipeline) : [], names);
    this.showEstimates();
  }

  /** Says why tiles of the slide are missing, in the words of the server; once. */
  private async stateFault(fault: ProblemError | null): Promise<void> {
    if (this.isFaulty || !this.slide || this.image) return;
    this.isFaulty = true;
    if (fault) this.notices.fail(fault);
    else await this.api.thumbnail(this.slide.id, 16).catch((error: unknown) => this.notices.fail(error));
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
    const { slide } = this;
    const { findings } = this.shown;
    const info = findings && this.infoOf(findings.pipeline);
    if (!findings || !slide || !info || this.image || findings.kind !== "cells") return [];
    const [x, y] = centroidOf(cell).map((value) => value.toFixed(3)) as [string, string];
    // A network of a later stage is given the cells that an earlier one has chosen, and no others.
    const measured = Object.keys(cell.measurements);
    const classifiers = info.classifiers.filter((name) => measured.some((measure) => measure.startsWith(`${name} `)));
    const models = [info.segmenter, ...classifiers].filter((name) => name !== null);
    const { job } = findings;
    if (job && !findings.isRunning) return models.map((model) => ({ model, picture: this.api.jobCrop(job, model, x, y) }));
    const asked: Record<string, string> = { pipeline: info.name, x, y };
    if (findings.mpp !== null) asked["mpp"] = String(findings.mpp);
    if (findings.stain !== null) asked["stain"] = findings.stain;
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
      this.form.setRunning(false, text("submitted"));
      await this.poll();
      return;
    }
    request["region"] = box;
    const start = performance.now();
    this.running = new AbortController();
    this.form.setRunning(true, text("running"));
    let message = "";
    try {
      const asked = { request, image: this.image };
      const [colormap] = COLORMAPS;
      const files = await this.api.region(asked, colormap, this.running.signal);
      const classes = this.infoOf(order.pipeline)?.classes ?? [];
      const findings = await ofRegion(this.api, asked, files, classes, colormap);
      const seconds = (performance.now() - start) / 1000;
      message = `${text("took")} ${numeral(seconds, 1)} s`;
      this.estimates.note(order.pipeline, box, seconds);
      this.stage.clearOverlays();
      this.showFindings(findings, newLook());
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
    if (!this.shown.findings) return;
    const right = await this.findingsOf(await this.api.job(id));
    this.comparison.begin(this.shown.findings, right);
    this.stage.clearOverlays();
    this.stage.setDivider(this.comparison.share);
    this.shown.changed();
  }

  private endComparison(): void {
    this.stage.setDivider(null);
    this.stage.clearOverlays();
    if (this.shown.findings) this.shown.changed();
  }

  private showFindings(findings: Findings, look: Look): void {
    if (this.shown.findings !== findings) {
      this.stage.clearOverlays();
      this.comparison.end();
    }
    this.jobList.setShown(findings.job, this.slide?.id ?? null);
    this.shown.show(findings, look);
    this.select(null);
    this.notices.warn(findings.warnings);
    this.result.set(findings, look);
    this.shown.changed();
  }

  private clearFindings(): void {
    this.shown.clear();
    this.comparison.end();
    this.jobList.setShown(null, null);
    this.select(null);
    this.notices.warn([]);
    this.stage.clearOverlays();
  }

  private select(cell: Cell | null): void {
    this.shown.selected = cell;
    this.cellPanel.set(cell);
    this.stage.redraw();
  }

  private async saveFile(format: Format, scope: ExportScope): Promise<void> {
    const problem = await saveFile(this.api, this.shown.findings, this.shown.filtered(), format, scope);
    this.exports.say(problem ? text(problem) : "");
  }

  private async savePicture(): Promise<void> {
    const lines = caption(this.slide?.id, this.shown.findings);
    const picture = await this.stage.picture(lines, swatches(this.shown.findings, this.shown.look, this.shown.range));
    if (picture) download("view.png", picture);
  }

  private async copyLink(): Promise<void> {
    const slide = this.image ? null : (this.slide?.id ?? null);
    const channels = this.slide && hasChannels(this.slide) ? this.channels.query() : "";
    const shown = { job: this.shown.findings?.job ?? null, other: this.comparison.right?.job ?? null, look: this.shown.look };
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
    const { findings } = this.shown;
    const job = findings?.isRunning ? this.jobs?.find((item) => item.id === findings.job) : undefined;
    if (!findings || !job) return;
    if (job.status === "succeeded") {
      this.showFindings(await ofJob(this.api, job.id, findings.classes), this.shown.look);
    } else if (await findings.update?.()) {
      this.result.set(findings, this.shown.look);
      await this.shown.refresh();
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
