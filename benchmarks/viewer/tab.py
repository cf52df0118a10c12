"""A tab of a real browser with the page in it, and what its own clocks say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

CHROMIUM: Final = shutil.which("chromium")
VIEWPORT: Final = {"width": 2500, "height": 1500}
LARGE: Final = {"width": 3000, "height": 1800}
"""Large enough for 10,000 outlines of a million cells at the coarsest scale that shows outlines."""

_OBSERVE: Final = """
window.seen = [];
new PerformanceObserver((list) => {
  for (const item of list.getEntries()) {
    const end = item.startTime + item.duration;
    window.seen.push({ name: item.name, at: item.startTime, end, cost: item.detail ?? 0 });
  }
}).observe({ entryTypes: ["mark", "resource"] });
"""
_FRAMES: Final = """() => {
  window.frames_ms = [];
  let last = performance.now();
  const step = (now) => {
    window.frames_ms.push(now - last);
    last = now;
    window.frameRequest = requestAnimationFrame(step);
  };
  window.frameRequest = requestAnimationFrame(step);
}"""
_CELLS: Final = "() => Number(document.querySelector('[data-in-view]')?.dataset.inView ?? -1)"


class Tab:
    """The page, until the end of a ``with``; `seen` holds its marks and requests in the order of its clock."""

    def __init__(self, browser: Any, url: str, viewport: Mapping[str, int] = VIEWPORT) -> None:
        self.context = browser.new_context(viewport=dict(viewport), locale="en")
        self.page = self.context.new_page()
        self.page.add_init_script(_OBSERVE)
        self.url = url

    def open(self, state: str = "") -> None:
        self.page.goto("about:blank")  # a change of the state alone does not load the page again
        self.page.goto(f"{self.url}/viewer/{state}")
        self.page.wait_for_selector(".slides button", timeout=60_000)

    def first(self, name: str, *, after: float = 0) -> dict[str, Any]:
        """The first mark or request whose name contains `name`, later than `after` in ms of the page's clock."""
        found = self.page.wait_for_function(
            "([name, after]) => window.seen.find((item) => item.name.includes(name) && item.at > after)",
            arg=[name, after],
            timeout=120_000,
        )
        entry: dict[str, Any] = found.json_value()
        return entry

    def last_end(self, name: str) -> float:
        """When the last request whose name contains `name` was answered, in ms of the page's clock."""
        ends = (
            "(name) => Math.max(...window.seen.filter((item) => item.name.includes(name)).map((item) => item.end))"
        )
        return float(self.page.evaluate(ends, name))

    def counted(self) -> int:
        """Waits until the cells in view are known; how many."""
        self.page.wait_for_function(f"() => ({_CELLS})() >= 0", timeout=120_000)
        return int(self.page.evaluate(_CELLS))

    def drag(self, dx: int, dy: int, *, steps: int = 30) -> None:
        """Drag the slide by so many pixels of the screen."""
        area = self.page.locator(".openseadragon-canvas").first.bounding_box()
        x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=steps)
        self.page.mouse.up()

    def frames_ms(self) -> np.ndarray:
        """The times between frames since `watch_frames`."""
        return np.array(self.page.evaluate("() => (cancelAnimationFrame(window.frameRequest), window.frames_ms)"))

    def watch_frames(self) -> None:
        self.page.evaluate(_FRAMES)

    def heap_mb(self) -> float:
        """What the page's scripts hold, once all else is collected."""
        session = self.context.new_cdp_session(self.page)
        session.send("HeapProfiler.collectGarbage")
        session.send("Performance.enable")
        metrics = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
        session.detach()
        return float(metrics["JSHeapUsedSize"]) / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.context.close()


@contextmanager
def browsing() -> Iterator[Any]:
    """Debian's chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-precise-memory-info"]
        )
        try:
            yield browser
        finally:
            browser.close()


def renderers_mb(browser: Any) -> float:
    """Private memory of the tabs' processes: their anonymous pages, as the kernel counts them."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    total_kb = 0
    for process in processes:
        if process["type"] == "renderer":
            text = Path(f"/proc/{process['id']}/smaps_rollup").read_text(encoding="ascii")
            total_kb += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous:"))
    return total_kb / 1e3
