// Problems and warnings, as sentences that cannot be missed.
import { ProblemError, UnreachableError } from "./api.ts";
import { button, element } from "./element.ts";
import { text } from "./texts.ts";
import type { Warning } from "./wire.ts";

export class Notices {
  readonly root = element("div", { class: "notices" });
  private readonly problem = element("div", { role: "alert" });
  private readonly warnings = element("div", { role: "status" });

  constructor() {
    this.root.append(this.problem, this.warnings);
  }

  /** Shows an error; one of the server with the id of its request, a fault of the page as such. */
  fail(error: unknown): void {
    if (error instanceof DOMException && error.name === "AbortError") return;
    if (error instanceof ProblemError) {
      this.state(error.problem.detail, error.problem.request_id);
    } else if (error instanceof UnreachableError) {
      this.state(text("unreachable"));
    } else {
      console.error(error);
      this.state(`${text("fault")} ${String(error)}`);
    }
  }

  /** Shows a sentence, with the id of a request if it has one. */
  state(sentence: string, id = ""): void {
    this.problem.replaceChildren(
      element(
        "div",
        { class: "problem" },
        element("span", {}, sentence, id ? element("code", {}, `${text("requestId")} ${id}`) : ""),
        button(text("close"), () => this.clear()),
      ),
    );
  }

  clear(): void {
    this.problem.replaceChildren();
  }

  warn(warnings: readonly Warning[]): void {
    // Many of them scroll, which keys can do only where the focus can be.
    if (warnings.length > 1) this.root.tabIndex = 0;
    else this.root.removeAttribute("tabindex");
    this.warnings.replaceChildren(
      ...warnings.map((item) =>
        element("div", { class: "warning" }, element("span", {}, `${text("warnings")}: ${item.message}`)),
      ),
    );
  }
}
