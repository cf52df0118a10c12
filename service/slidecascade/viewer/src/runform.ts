// The form that runs a pipeline on the view, a box or the whole slide.
import { button, element, labelled } from "./element.ts";
import { duration, text } from "./texts.ts";
import type { PipelineInfo } from "./wire.ts";

export type Scope = "view" | "box" | "slide";

export interface Order {
  pipeline: string;
  thresholds: Record<string, number>;
  mpp: number | null;
  /** A method of stain normalisation; empty: the pipeline's. */
  stain: string;
  /** Index of the slide's channel for each meaning that the network takes. */
  channels: Record<string, number>;
}

const STAINS = ["macenko", "reinhard", "vahadane"];

export interface RunEvents {
  run(scope: Scope, order: Order): void;
  draw(): void;
  stop(): void;
  /** Another pipeline was chosen. */
  chosen(): void;
}

export class RunForm {
  readonly root: HTMLElement;
  private readonly pipelines = element("select", { name: "pipeline" });
  private readonly description = element("p", { class: "note" });
  private readonly thresholds = element("div", { class: "fields" });
  private readonly stain = element("select", { name: "stain" });
  private readonly stainField = labelled(text("stain"), this.stain);
  private readonly channels = element("div", { class: "fields" });
  private readonly estimate = element("p", { class: "note", role: "status", "data-estimate": "" });
  private readonly mpp = element("input", { type: "number", min: 0.01, max: 50, step: "any", name: "mpp" });
  private readonly mppField = labelled(text("pixelSize"), this.mpp);
  private readonly actions: HTMLButtonElement[];
  private readonly boxButton: HTMLButtonElement;
  private readonly slideButton: HTMLButtonElement;
  private readonly stopButton: HTMLButtonElement;
  private readonly status = element("p", { class: "note", role: "status" });
  private known: PipelineInfo[] = [];

  constructor(private readonly events: RunEvents) {
    const start = (scope: Scope) => () => this.isValid() && events.run(scope, this.order());
    const view = button(text("runView"), start("view"), { class: "main", "data-run": "view" });
    this.boxButton = button(text("runBox"), start("box"), { disabled: true, "data-run": "box" });
    this.slideButton = button(text("runSlide"), start("slide"), { "data-run": "slide" });
    this.stopButton = button(text("stop"), () => events.stop(), { hidden: true });
    this.actions = [view, this.boxButton, this.slideButton];
    this.mppField.hidden = true;
    this.pipelines.addEventListener("change", () => this.showPipeline());
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("run") },
      element("h2", {}, text("run")),
      labelled(text("pipeline"), this.pipelines),
      this.description,
      this.thresholds,
      this.stainField,
      this.channels,
      this.mppField,
      this.estimate,
      view,
      button(text("draw"), () => events.draw(), { "data-run": "draw" }),
      this.boxButton,
      this.slideButton,
      this.stopButton,
      this.status,
    );
  }

  /** Those that fit come first, and of these those of cells; the one that was chosen stays unless it does not fit. */
  setPipelines(pipelines: readonly PipelineInfo[], fits: (item: PipelineInfo) => boolean): void {
    const rank = (item: PipelineInfo) => (fits(item) ? 0 : 2) + (item.kind === "cells" ? 0 : 1);
    const before = pipelines.find((item) => item.name === this.pipelines.value);
    this.known = [...pipelines].sort((a, b) => rank(a) - rank(b));
    this.pipelines.replaceChildren(...this.known.map((item) => element("option", { value: item.name }, item.title)));
    if (before && fits(before)) this.pipelines.value = before.name;
    this.showPipeline();
  }

  /** What can be run: on an image there are no jobs, and a stated pixel size need not be asked for. */
  setSubject(needsMpp: boolean, canSubmit: boolean): void {
    this.mppField.hidden = !needsMpp;
    this.slideButton.hidden = !canSubmit;
    this.boxButton.disabled = true;
  }

  get pipeline(): PipelineInfo | null {
    return this.known.find((item) => item.name === this.pipelines.value) ?? null;
  }

  /** Which channels of a slide the network is given: a field for each of its `meanings`; none for slides in colour. */
  setChannels(meanings: readonly string[], names: readonly string[]): void {
    this.stainField.hidden = names.length > 0;
    this.channels.replaceChildren(
      ...(names.length ? meanings : []).map((meaning, place) => {
        const options = names.map((name, index) => element("option", { value: index }, name));
        const field = element("select", { "data-channel": meaning }, ...options);
        const same = names.findIndex((name) => name.toLowerCase() === meaning.toLowerCase());
        field.value = String(same >= 0 ? same : Math.min(place, names.length - 1));
        return labelled(`${text("channelFor")} ${meaning}`, field);
      }),
    );
  }

  /** States how long runs will take: seconds by what is run; null: unknown. */
  setEstimates(seconds: [string, number | null][]): void {
    const known = seconds.filter((item): item is [string, number] => item[1] !== null);
    const parts = known.map(([what, value]) => `${what} ${duration(value)}`);
    this.estimate.textContent = parts.length ? `${text("estimate")}: ${parts.join(" · ")}` : text("noEstimate");
  }

  /** Whether there is a box to be analysed. */
  setBox(isThere: boolean): void {
    this.boxButton.disabled = !isThere;
    if (isThere) this.boxButton.focus();
  }

  setRunning(isRunning: boolean, message: string): void {
    for (const action of this.actions) action.classList.toggle("busy", isRunning);
    this.stopButton.hidden = !isRunning;
    this.status.textContent = message;
  }

  /** Whether all fields hold what they may; the first that does not says so. */
  private isValid(): boolean {
    const fields = [...this.thresholds.querySelectorAll("input"), ...(this.mppField.hidden ? [] : [this.mpp])];
    return fields.every((field) => field.reportValidity());
  }

  private order(): Order {
    const thresholds: Record<string, number> = {};
    for (const field of this.thresholds.querySelectorAll("input")) {
      if (field.value !== field.defaultValue) thresholds[field.name] = Number(field.value);
    }
    const mpp = this.mppField.hidden || this.mpp.value === "" ? null : Number(this.mpp.value);
    const fields = [...this.channels.querySelectorAll("select")];
    const channels = Object.fromEntries(fields.map((field) => [field.dataset["channel"], Number(field.value)]));
    const stain = this.stainField.hidden ? "" : this.stain.value;
    return { pipeline: this.pipelines.value, thresholds, mpp, stain, channels };
  }

  private showPipeline(): void {
    const chosen = this.pipeline;
    const own = chosen?.stain === "none" ? text("stainNone") : chosen?.stain;
    this.stain.replaceChildren(
      element("option", { value: "" }, `${text("stainDefault")} (${own ?? ""})`),
      element("option", { value: "none" }, text("stainNone")),
      ...STAINS.map((name) => element("option", { value: name }, name)),
    );
    this.events.chosen();
    this.description.textContent = chosen?.description ?? "";
    this.thresholds.replaceChildren(
      ...Object.entries(chosen?.thresholds ?? {}).map(([name, value]) =>
        labelled(
          `${text("threshold")} ${name}`,
          element("input", { type: "number", name, value, min: 0, max: 1, step: "any", required: true }),
        ),
      ),
    );
  }
}
