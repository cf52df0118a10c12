// Two results of a slide, one at each side of a divider that is moved over the slide.
import { css } from "./colors.ts";
import { button, element, labelled } from "./element.ts";
import type { Cell, Findings } from "./findings.ts";
import { numeral, text } from "./texts.ts";

export class Comparison {
  /** The divider, over the slide. */
  readonly bar = element("div", { class: "divider", hidden: true });
  /** The numbers of both results. */
  readonly panel = element("section", { class: "panel", hidden: true });
  /** The result at the right, and its cells in view. */
  right: Findings | null = null;
  visible: Cell[] = [];
  /** Where the divider is, from 0 at the left to 1. */
  share = 0.5;

  /** `moved`: the divider was moved; `ended`: there is nothing to compare any more. */
  constructor(
    private readonly moved: () => void,
    private readonly ended: () => void,
  ) {}

  begin(left: Findings, right: Findings): void {
    this.right = right;
    this.share = 0.5;
    this.relabel(left);
  }

  end(): void {
    if (!this.right) return;
    this.right = null;
    this.visible = [];
    this.bar.hidden = this.panel.hidden = true;
    this.ended();
  }

  /** The parts in the language chosen. */
  relabel(left: Findings | null): void {
    const { right } = this;
    if (!left || !right) return;
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: this.share, name: "divider" });
    slider.addEventListener("input", () => {
      this.share = Number(slider.value);
      this.moved();
    });
    this.bar.replaceChildren(
      element("span", {}, `${text("leftResult")}: ${left.pipeline}`),
      labelled(text("divider"), slider),
      element("span", {}, `${text("rightResult")}: ${right.pipeline}`),
      button(text("endComparison"), () => this.end()),
    );
    this.panel.setAttribute("aria-label", text("compare"));
    this.panel.replaceChildren(element("h2", {}, text("compare")), table(left, right));
    this.bar.hidden = this.panel.hidden = false;
  }
}

function table(left: Findings, right: Findings): HTMLElement {
  const colors = new Map([...right.classes, ...left.classes].map((item) => [item.name, item.color]));
  const rows = [...colors].map(([name, color]) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderColor = css(color);
    const count = (of: Findings) => element("td", { class: "number" }, numeral(of.counts[name] ?? 0));
    const head = element("th", { scope: "row" }, swatch, name);
    return element("tr", { "data-compared": name }, head, count(left), count(right));
  });
  const titles = [
    text("className"),
    `${text("leftResult")}: ${left.pipeline}`,
    `${text("rightResult")}: ${right.pipeline}`,
  ].map((title) => element("th", { scope: "col" }, title));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...titles)),
    element("tbody", {}, ...rows),
  );
}
