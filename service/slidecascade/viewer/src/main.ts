// The page: its parts, and what passes between them.
import { Api, type ProblemError } from "./api.ts";
import { Catalogue } from "./catalogue.ts";
import { CellPanel, type Seen } from "./cellpanel.ts";
import { ChannelPanel, hasChannels } from "./channels.ts";
import { Comparison } from "./comparison.ts";
import { cropsOf } from "./crops.ts";
import { copy, download, element } from "./element.ts";
import { Estimates } from "./estimates.ts";
import { ExportPanel, type Format, type Scope as ExportScope } from "./exports.ts";
import type { Cell } from "./findings.ts";
import { headerItems } from "./header.ts";
import { JobList } from "./joblist.ts";
import { JobWatch } from "./jobwatch.ts";
import { fromHash, toHash } from "./link.ts";
import { Notices } from "./notices.ts";
import { caption, saveFile, swatches } from "./output.ts";
import { RegionRun, requestOf } from "./regionrun.ts";
import { type Look, newLook, ResultPanel } from "./resultpanel.ts";
import { Results } from "./results.ts";
import { type Order, RunForm, type Scope } from "./runform.ts";
import { ShownResult } from "./shownresult.ts";
import { SlideList } from "./slidelist.ts";
import { Stage } from "./stage.ts";
import { currentLanguage, numeral, setLanguage, text } from "./texts.ts";
import type { Box, Job, SlideInfo } from "./wire.ts";

class Page {
  private readonly api = new Api();
  private readonly notices = new Notices();
  private readonly stage: Stage;
  private readonly hint = element("p", { class: "hint", role: "status" });
  private readonly left = element("div", { class: "side" });
  private readonly right = element("div", { class: "side" });
  private readonly catalogue = new Catalogue(this.api);
  private readonly regionRun = new RegionRun(this.api);
  private readonly watch = new JobWatch(this.api, {
    fail: (error) => this.notices.fail(error),
    seen: () => this.noteJobs(),
    back: () => this.notices.clear(),
  });
  private readonly estimates = new Estimates(this.api);
  private readonly comparison = new Comparison(
    () => this.stage.setDivider(this.comparison.share),
    () => this.results.endComparison(),
  );
  private readonly shown = new ShownResult(this.api, this.comparison, {
    stage: () => this.stage,
    fail: (error) => this.notices.fail(error),
    seen: (cells, range, values) => {
      this.result.setView(cells);
      this.result.setScale(range, values);
    },
  });
  private readonly results = new Results(this.api, this.catalogue, this.shown, this.comparison, () => {
    const { stage, notices, jobList, result, cellPanel } = this;
    return { stage, notices, jobList, result, cellPanel };
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
  private slide: SlideInfo | null = null;
  private image: File | null = null;
  private imageUrl: string | null = null;
  /** Whether it was stated that tiles of the slide are missing. */
  private isFaulty = false;
  /** Whether a slide whose file was replaced is being opened anew. */
  private isReplaced = false;
  /** Counts the slides that were chosen. */
  private turn = 0;
  /** The job whose result is to be shown. */
  private wanted: string | null = null;

  constructor() {
    this.stage = new Stage(this.api, {
      draw: (context, frame) => this.shown.draw(context, frame),
      rest: () => {
        this.showEstimates();
        void this.shown.refresh();
      },
      click: (x, y) => this.results.select(this.shown.at(x, y)),
      box: (box) => {
        this.form.setRunning(false, "");
        this.form.setBox(box !== null);
        this.showEstimates();
      },
      standIn: (isShown) => {
        this.hint.textContent = isShown ? text("preparing") : "";
      },
      nextCell: () => this.results.select(this.shown.next()),
      missing: (fault) => void this.stateFault(fault),
      replaced: () => void this.attempt(() => this.openReplaced()),
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
      if (state.job && state.other) await this.attempt(() => this.results.compare(state.other as string, this.slideId));
    }
    addEventListener("hashchange", () => location.reload());
  }

  /** Everything that the server lists; asked for again with another key. */
  private async load(): Promise<void> {
    await this.attempt(async () => {
      [this.slideIds] = await Promise.all([this.api.slideIds(), this.catalogue.load()]);
      this.slides.set(this.slideIds);
      this.offerPipelines();
    });
    await this.watch.poll();
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
      stop: () => this.regionRun.stop(),
      chosen: () => this.offerChannels(),
    });
    this.jobList = new JobList(
      {
        open: (job) => void this.attempt(() => this.openJob(job.id, newLook())),
        cancel: (job) => void this.attempt(async () => void (await this.api.cancel(job.id)), true),
        compare: (job) => void this.attempt(() => this.results.compare(job.id, this.slideId)),
      },
      (pipeline) => this.catalogue.infoOf(pipeline)?.kind === "cells",
    );
    this.result = new ResultPanel(() => this.shown.changed());
    this.cellPanel = new CellPanel((cell) => this.cropsOf(cell));
    this.exports = new ExportPanel({
      file: (format, scope) => void this.attempt(() => this.saveFile(format, scope)),
      picture: () => void this.attempt(() => this.savePicture()),
      link: () => void this.attempt(() => this.copyLink()),
    });
    const login = (key: string) => {
      this.api.setKey(key);
      this.notices.clear();
      void this.load();
    };
    this.header.replaceChildren(...headerItems(this.stage, { login, switchLanguage: () => this.switchLanguage() }));
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

  private switchLanguage(): void {
    setLanguage(currentLanguage() === "en" ? "de" : "en");
    this.buildPanels();
    this.slides.set(this.slideIds);
    this.slides.mark(this.slide?.id ?? null);
    this.offerPipelines();
    if (this.slide) this.setSubject(this.slide);
    this.showJobs();
    if (this.shown.findings) this.results.show(this.shown.findings, this.shown.look, this.slideId);
    this.cellPanel.set(this.shown.selected);
  }

  private async attempt(act: () => Promise<void>, thenPoll = false): Promise<void> {
    this.notices.clear();
    try {
      await act();
      if (thenPoll) await this.watch.poll();
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

  /** Shows the new content of the slide, once; results of the former one do not belong to it. */
  private async openReplaced(): Promise<void> {
    const { slide } = this;
    if (!slide || this.isReplaced) return;
    this.isReplaced = true;
    await this.openSlide(slide.id, this.stage.view(), hasChannels(slide) ? this.channels.query() : "");
    this.notices.state(text("replaced"));
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
    // What it finds is of the slide that was shown.
    this.regionRun.stop();
    this.wanted = null;
    this.slide = slide;
    this.isFaulty = this.isReplaced = false;
    this.image = image;
    this.results.clear();
    this.slides.mark(image ? null : slide.id);
    this.setSubject(slide);
    this.hint.textContent = "";
    this.channels.set(slide, channels);
    this.offerPipelines();
    if (this.imageUrl) URL.revokeObjectURL(this.imageUrl);
    this.imageUrl = image && URL.createObjectURL(image);
    await this.stage.open(slide, this.imageUrl, channels);
    this.showEstimates();
  }

  /** Offers pipelines, first those for what the slide is: colours, or channels of its own. */
  private offerPipelines(): void {
    this.form.setPipelines(this.catalogue.pipelines, (item) => this.catalogue.fits(item, this.slide));
  }

  /** Offers the slide's channels to the network of the pipeline that is chosen. */
  private offerChannels(): void {
    const { pipeline } = this.form;
    const names = this.slide && hasChannels(this.slide) ? this.slide.channels : [];
    this.form.setChannels(pipeline?.segmenter ? this.catalogue.channelsOf(pipeline) : [], names);
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

  /** None of an image of this computer, which the server does not keep. */
  private cropsOf(cell: Cell): Seen[] {
    const { findings } = this.shown;
    const info = findings && this.catalogue.infoOf(findings.pipeline);
    if (!findings || !this.slide || !info || this.image) return [];
    return cropsOf(this.api, cell, findings, info, this.slide.id);
  }

  private async run(scope: Scope, order: Order): Promise<void> {
    const box = scope === "box" ? this.stage.box : this.stage.view();
    if (!this.slide || !box || this.regionRun.isRunning) return;
    const request = requestOf(order, this.image ? null : this.slide.id);
    if (scope === "slide") {
      await this.api.submit(request);
      this.form.setRunning(false, text("submitted"));
      await this.watch.poll();
      return;
    }
    const { turn } = this;
    const start = performance.now();
    this.form.setRunning(true, text("running"));
    let message = "";
    try {
      const findings = await this.regionRun.run(request, box, this.image, this.catalogue.classesOf(order.pipeline));
      if (turn !== this.turn) return;
      const seconds = (performance.now() - start) / 1000;
      message = `${text("took")} ${numeral(seconds, 1)} s`;
      this.estimates.note(order.pipeline, box, seconds);
      this.stage.clearOverlays();
      this.results.show(findings, newLook(), this.slideId);
    } finally {
      this.form.setRunning(false, message);
      this.showEstimates();
    }
  }

  /** Shows the result of a job, and its slide; unless by then another slide or job was chosen. */
  private async openJob(id: string, look: Look): Promise<void> {
    const { turn } = this;
    const job = await this.api.job(id);
    if (!job.slide || turn !== this.turn) return;
    if (this.slideId !== job.slide) await this.openSlide(job.slide, null);
    if (this.slideId !== job.slide) return;
    this.wanted = id;
    const findings = await this.results.ofJob(job);
    if (this.wanted !== id) return;
    this.stage.clearOverlays();
    this.results.show(findings, look, job.slide);
  }

  /** The slide that is shown; null: none, or an image of this computer. */
  private get slideId(): string | null {
    return this.image ? null : (this.slide?.id ?? null);
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
    const slide = this.slideId;
    const channels = this.slide && hasChannels(this.slide) ? this.channels.query() : "";
    const shown = { job: this.shown.findings?.job ?? null, other: this.comparison.right?.job ?? null, look: this.shown.look };
    const state = { slide, view: this.stage.view(), channels, ...shown };
    history.replaceState(null, "", toHash(state));
    this.exports.say(text((await copy(location.href, "link.txt")) ? "copied" : "saved"));
  }

  /** Shows the jobs as they are now. */
  private async noteJobs(): Promise<void> {
    this.showJobs();
    if (this.slide) this.setSubject(this.slide);
    await this.results.follow(this.jobs ?? [], this.slideId);
    if (this.jobs && (await this.estimates.learn(this.jobs).catch(() => false))) this.showEstimates();
  }

  private get jobs(): Job[] | null {
    return this.watch.jobs;
  }

  private setSubject(slide: SlideInfo): void {
    this.form.setSubject(slide.mpp === null, this.image === null && this.jobs !== null);
  }

  private showJobs(): void {
    if (this.jobs) this.jobList.set(this.jobs);
    else this.jobList.setNote(text(this.watch.isOff ? "jobsOff" : "jobsUnknown"));
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

void new Page().start();
