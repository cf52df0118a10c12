// The slides that the server offers, with thumbnails that are fetched when they come into sight.
import type { Api } from "./api.ts";
import { element, labelled, pause } from "./element.ts";
import { numeral, text } from "./texts.ts";
import type { SlideInfo } from "./wire.ts";

const THUMBNAIL_PX = 160;
/** How long a stand-in is shown until the picture is asked for again. */
const AGAIN_MS = 1500;

export class SlideList {
  readonly root: HTMLElement;
  private readonly list = element("ul", { class: "slides" });
  private readonly watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.watch.unobserve(target);
      void this.fill(target as HTMLButtonElement);
    }
  });

  constructor(
    private readonly api: Api,
    private readonly choose: (id: string) => void,
    upload: (file: File) => void,
  ) {
    const search = element("input", { type: "search", autocomplete: "off" });
    search.addEventListener("input", () => this.filter(search.value));
    const image = element("input", { type: "file", accept: "image/png,image/jpeg,image/webp" });
    image.addEventListener("change", () => {
      const file = image.files?.[0];
      if (file) upload(file);
    });
    this.root = element(
      "section",
      { class: "panel", "aria-label": text("slides") },
      element("h2", {}, text("slides")),
      labelled(text("search"), search),
      this.list,
      labelled(text("image"), image),
    );
  }

  set(ids: readonly string[]): void {
    this.watch.disconnect();
    if (ids.length === 0) {
      this.list.replaceChildren(element("li", { class: "note" }, text("noSlides")));
      return;
    }
    this.list.replaceChildren(
      ...ids.map((id) => {
        const item = element(
          "button",
          { type: "button", "data-slide": id, click: () => this.choose(id) },
          element("img", { alt: "", width: 64, height: 64 }),
          element("span", { class: "name" }, id),
          element("span", { class: "note" }),
        );
        this.watch.observe(item);
        return element("li", {}, item);
      }),
    );
  }

  mark(id: string | null): void {
    for (const item of this.list.querySelectorAll("button")) {
      if (item.dataset["slide"] === id) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    }
  }

  private filter(wanted: string): void {
    const words = wanted.toLowerCase().split(/\s+/);
    for (const item of this.list.querySelectorAll("button")) {
      const name = item.dataset["slide"]?.toLowerCase() ?? "";
      (item.parentElement as HTMLElement).hidden = !words.every((word) => name.includes(word));
    }
  }

  private async fill(item: HTMLButtonElement): Promise<void> {
    const id = item.dataset["slide"] as string;
    const note = item.querySelector(".note") as HTMLElement;
    try {
      const { slide, fault } = await this.api.slide(id);
      note.textContent = fault ? fault.message : describe(slide);
      if (fault) return;
      const image = item.querySelector("img") as HTMLImageElement;
      let shown = await this.api.thumbnail(id, THUMBNAIL_PX);
      showPicture(image, shown.picture);
      while (!shown.isFinal && item.isConnected) {
        await pause(AGAIN_MS);
        shown = await this.api.thumbnail(id, THUMBNAIL_PX);
        showPicture(image, shown.picture);
      }
    } catch (error) {
      note.textContent = String((error as Error).message);
    }
  }
}

function showPicture(image: HTMLImageElement, picture: Blob): void {
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  image.src = URL.createObjectURL(picture);
}

function describe(slide: SlideInfo): string {
  const size = `${numeral(slide.width)} × ${numeral(slide.height)}`;
  const mpp = slide.mpp === null ? text("noSize") : `${numeral(slide.mpp, 3)} µm`;
  return [size, mpp, slide.vendor].filter(Boolean).join(" · ");
}
