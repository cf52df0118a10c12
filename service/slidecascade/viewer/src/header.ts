// The head of the page: zoom, the key of the server, light or dark, the language.
import { button, element, labelled } from "./element.ts";
import type { Stage } from "./stage.ts";
import { currentLanguage, text } from "./texts.ts";

export interface HeaderEvents {
  /** A key was entered. */
  login(key: string): void;
  switchLanguage(): void;
}

/** The parts of the header, in the language chosen. */
export function headerItems(stage: Stage, events: HeaderEvents): HTMLElement[] {
  const tool = (name: string, label: string, act: () => void) => button(name, act, { "aria-label": label, title: label });
  const key = element("input", { type: "password", autocomplete: "off", name: "key" });
  const login = element("form", { class: "login" }, labelled(text("key"), key), element("button", {}, text("login")));
  login.addEventListener("submit", (event) => {
    event.preventDefault();
    events.login(key.value);
  });
  return [
    element("h1", {}, "SlideCascade"),
    tool("+", text("zoomIn"), () => stage.zoom(2)),
    tool("−", text("zoomOut"), () => stage.zoom(0.5)),
    tool("⌂", text("home"), () => stage.home()),
    element("span", { class: "gap" }),
    login,
    tool("◐", text("theme"), () => switchTheme()),
    button(text("language"), () => events.switchLanguage(), { lang: currentLanguage() === "en" ? "de" : "en" }),
  ];
}

function switchTheme(): void {
  const { dataset } = document.documentElement;
  const isDark = dataset["theme"] ? dataset["theme"] === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset["theme"] = isDark ? "light" : "dark";
}
