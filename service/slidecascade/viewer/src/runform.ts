// The form that runs a pipeline on the view, a box or the whole slide.
import { button, element, labelled } from "./element.ts";
import { text } from "./texts.ts";
import type { PipelineInfo } from "./wire.ts";

export type Scope = "view" | "box" | "slide";

export interface Order {
  pipeline: string;
  thresholds: Record<string, number>;
  mpp: number | null;
}

export interface RunEvents {
  run(scope: Scope, order: Order): void;
  draw(): void;
  stop(): void;
}

export class RunForm {
  readonly root: HTMLElement;
  private readonly pipelines = element("select", { name: "pipeline" });
  private readonly description = element("p", { class: "note" });
  private readonly thresholds = element("div", { class: "fields" });
  private readonly mpp = element("input", { type: "number", min: 0.01, max: 50, step: "any", name: "mpp" });
  private readonly mppField = labelled(text("pixelSize"), this.mpp);
  private readonly actions: HTMLButtonElement[];
  private readonly boxButton: HTMLButtonElement;
  private readonly slideButton: HTMLButtonElement;
  private readonly stopButton: HTMLButtonElement;
  private readonly status = element("p", { class: "note", role: "status" });
  private known: PipelineInfo[] = [];

  constructor(events: RunEvents) {
    const start = (scope: Scope) => () => events.run(scope, this.order());
    const view = button(text("runView"), start("view"), { class: "main", "data-run": "view" });
    this.boxButton = button(text("runBox"), start("box"), { disabled: true, "data-run": "box" });
    this.slideButton = button(text("runSlide"), start("slide"), { "data-run": "slide" });
    this.stopButton = button(text("stop"), () => events.stop(), { hidden: true });
    this.actions = [view, this.boxButton, this.slideButton];
    this.pipelines.addEventListener("change", () => this.showPipeline());
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("run") },
      element("h2", {}, text("run")),
      labelled(text("pipeline"), this.pipelines),
      this.description,
      this.thresholds,
      this.mppField,
      view,
      button(text("draw"), () => events.draw(), { "data-run": "draw" }),
      this.boxButton,
      this.slideButton,
      this.stopButton,
      this.status,
    );
  }

  setPipelines(pipelines: PipelineInfo[]): void {
    this.known = [...pipelines].sort((a, b) => Number(b.kind === "cells") - Number(a.kind === "cells"));
    this.pipelines.replaceChildren(...this.known.map((item) => element("option", { value: item.name }, item.title)));
    this.showPipeline();
  }

  /** What can be run: on an image there are no jobs, and a stated pixel size need not be asked for. */
  setSubject(needsMpp: boolean, canSubmit: boolean): void {
    this.mppField.hidden = !needsMpp;
    this.slideButton.hidden = !canSubmit;
    this.boxButton.disabled = true;
  }

  enableBox(): void {
    this.boxButton.disabled = false;
    this.boxButton.focus();
  }

  setRunning(isRunning: boolean, message: string): void {
    for (const action of this.actions) action.classList.toggle("busy", isRunning);
    this.stopButton.hidden = !isRunning;
    this.status.textContent = message;
  }

  private order(): Order {
    const thresholds: Record<string, number> = {};
    for (const field of this.thresholds.querySelectorAll("input")) {
      if (field.value !== field.defaultValue) thresholds[field.name] = Number(field.value);
    }
    const mpp = this.mppField.hidden || this.mpp.value === "" ? null : Number(this.mpp.value);
    return { pipeline: this.pipelines.value, thresholds, mpp };
  }

  private showPipeline(): void {
    const chosen = this.known.find((item) => item.name === this.pipelines.value);
    this.description.textContent = chosen?.description ?? "";
    this.thresholds.replaceChildren(
      ...Object.entries(chosen?.thresholds ?? {}).map(([name, value]) =>
        labelled(
          `${text("threshold")} ${name}`,
          element("input", { type: "number", name, value, min: 0, max: 1, step: 0.01 }),
        ),
      ),
    );
  }
}
