// The cell that is selected: its numbers, and its pixels as each network was given them.
import { css } from "./colors.ts";
import { button, copy, element } from "./element.ts";
import type { Cell } from "./findings.ts";
import { numeral, text } from "./texts.ts";

/** A network that has seen the cell, and its picture of it. */
export interface Seen {
  model: string;
  picture: Promise<Blob>;
}

export class CellPanel {
  readonly root: HTMLElement;
  private readonly body = element("div", { "aria-live": "polite" });
  private shown: Cell | null = null;

  constructor(private readonly crops: (cell: Cell) => Seen[]) {
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("cell") },
      element("h2", {}, text("cell")),
      this.body,
    );
    this.set(null);
  }

  set(cell: Cell | null): void {
    this.shown = cell;
    if (!cell) {
      this.body.replaceChildren(element("p", { class: "note" }, text("noCell")));
      return;
    }
    const rows = Object.entries(cell.measurements).map(([name, value]) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "number" }, numeral(value, 4))),
    );
    const done = element("span", { class: "note", role: "status" });
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderColor = css(cell.color);
    this.body.replaceChildren(
      element("p", {}, swatch, element("strong", {}, cell.className)),
      element("div", { class: "crops" }, ...this.crops(cell).map((seen) => this.figure(cell, seen))),
      element("table", {}, element("tbody", {}, ...rows)),
      element("p", { class: "id" }, cell.id),
      button(text("copy"), () => {
        void copy(JSON.stringify(cell.feature), "cell.geojson").then((isCopied) => {
          done.textContent = text(isCopied ? "copied" : "saved");
        });
      }),
      done,
    );
  }

  private figure(cell: Cell, { model, picture }: Seen): HTMLElement {
    const image = element("img", { alt: `${text("asSeenBy")} ${model}`, width: 96, height: 96, "data-crop": model });
    const figure = element("figure", {}, image, element("figcaption", { class: "note" }, model));
    const fill = async () => {
      const found = await picture.catch(() => null);
      if (this.shown !== cell || !found) {
        figure.remove();
        return;
      }
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
      image.src = URL.createObjectURL(found);
    };
    void fill();
    return figure;
  }
}
