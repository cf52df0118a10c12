"""A tab of a real browser with the page in it, and what its own clocks say.

The browser is driven by a few commands of the Chrome DevTools Protocol. Playwright would have it record all
requests and their answers, which takes memory of the very process that is measured, more with each minute.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from httpx_ws import WebSocketSession, connect_ws

CHROMIUM: Final = shutil.which("chromium")
VIEWPORT: Final = {"width": 2500, "height": 1500}
LARGE: Final = {"width": 3000, "height": 1800}
"""Large enough for 10,000 outlines of a million cells at the coarsest scale that shows outlines."""

_LATE_S: Final = 120.0
_POLL_S: Final = 0.02
_LARGEST_MESSAGE: Final = 100_000_000
_OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--lang=en",
    "--remote-debugging-port=0",
    # Else a tab that is not the newest is drawn less often.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)
_OBSERVE: Final = """
window.seen = [];
new PerformanceObserver((list) => {
  for (const item of list.getEntries()) {
    const end = item.startTime + item.duration;
    window.seen.push({ name: item.name, at: item.startTime, end, cost: item.detail ?? 0 });
  }
}).observe({ entryTypes: ["mark", "resource"] });
"""
_FRAMES: Final = """
  window.frames_ms = [];
  let last = performance.now();
  const step = (now) => {
    window.frames_ms.push(now - last);
    last = now;
    window.frameRequest = requestAnimationFrame(step);
  };
  window.frameRequest = requestAnimationFrame(step);
"""
_CELLS: Final = "Number(document.querySelector('[data-in-view]')?.dataset.inView ?? -1)"


class LateError(Exception):
    """The page did not come to what was waited for."""


class Session:
    """Commands of the DevTools protocol to a browser or a tab."""

    def __init__(self, socket: WebSocketSession) -> None:
        self._socket = socket
        self._sent = 0

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        self._sent += 1
        self._socket.send_json({"id": self._sent, "method": method, "params": parameters})
        while True:
            message = self._socket.receive_json(timeout=_LATE_S)
            if message.get("id") == self._sent:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result


@contextmanager
def _driving(address: str, client: httpx.Client) -> Iterator[Session]:
    socket: WebSocketSession
    with connect_ws(address, client, max_message_size_bytes=_LARGEST_MESSAGE) as socket:
        yield Session(socket)


class Browser:
    """Debian's Chromium, headless, with a profile of its own."""

    def __init__(self, session: Session, address: str, client: httpx.Client) -> None:
        self._session = session
        self._address = address
        self._client = client

    @contextmanager
    def tab(self, url: str, viewport: Mapping[str, int] = VIEWPORT) -> Iterator[Tab]:
        """A tab that shares nothing with others, for the page of the server at `url`; closed at the end."""
        context = self._session.send("Target.createBrowserContext")["browserContextId"]
        size = {"width": viewport["width"], "height": viewport["height"]}
        target = self._session.send("Target.createTarget", url="about:blank", browserContextId=context, **size)
        address = f"{self._address}/devtools/page/{target['targetId']}"
        try:
            with _driving(address, self._client) as session:
                session.send("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=False, **size)
                session.send("Page.enable")  # else that script is not run
                session.send("Page.addScriptToEvaluateOnNewDocument", source=_OBSERVE)
                yield Tab(session, url)
        finally:
            self._session.send("Target.disposeBrowserContext", browserContextId=context)

    def tabs_mb(self) -> float:
        """Private memory of the largest tab: the anonymous pages of its process, as the kernel counts them.

        The others are the browser's own: spare ones, and those of its user interface.
        """
        processes = self._session.send("SystemInfo.getProcessInfo")["processInfo"]
        return max(_anonymous_mb(item["id"]) for item in processes if item["type"] == "renderer")


class Tab:
    """The page; `window.seen` holds its marks and requests in the order of its clock."""

    def __init__(self, session: Session, url: str) -> None:
        self.session = session
        self.url = url

    def evaluate(self, expression: str) -> Any:
        """The JSON value of `expression`; None while the page is being loaded."""
        found = self.session.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']['text']}")
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of `expression` once it holds."""
        ends_at = time.monotonic() + _LATE_S
        while not (found := self.evaluate(expression)):
            if time.monotonic() > ends_at:
                raise LateError(f"not within {_LATE_S:g} s: {expression}")
            time.sleep(_POLL_S)
        return found

    def open(self, state: str = "") -> None:
        self.goto("about:blank")  # a change of the state alone does not load the page again
        self.goto(f"{self.url}/viewer/{state}")
        self.wait("!!document.querySelector('.slides button')")

    def goto(self, url: str) -> None:
        self.session.send("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def block(self, pattern: str) -> None:
        """Requests like `pattern` fail."""
        self.session.send("Network.enable")
        self.session.send("Network.setBlockedURLs", urls=[pattern])

    def now(self) -> float:
        """Milliseconds of the page's clock."""
        return float(self.evaluate("performance.now()"))

    def first(self, name: str, *, after: float = 0) -> dict[str, Any]:
        """The first mark or request whose name contains `name`, later than `after` in ms of the page's clock."""
        found: dict[str, Any] = self.wait(
            f"window.seen.find((item) => item.name.includes({json.dumps(name)}) && item.at > {after})"
        )
        return found

    def last_end(self, name: str) -> float:
        """When the last request whose name contains `name` was answered, in ms of the page's clock."""
        wanted = f"window.seen.filter((item) => item.name.includes({json.dumps(name)}))"
        return float(self.evaluate(f"Math.max(...{wanted}.map((item) => item.end))"))

    def counted(self) -> int:
        """Waits until the cells in view are known; how many."""
        self.wait(f"{_CELLS} >= 0")
        return int(self.evaluate(_CELLS))

    def set_outlines(self, is_shown: bool) -> None:
        """Sets the check box."""
        box = "document.querySelector('[name=outlines]')"
        self.evaluate(f"{box}.checked === {json.dumps(is_shown)} || {box}.click()")

    def drag(self, dx: int, dy: int, *, steps: int = 30) -> None:
        """Drag the slide by so many pixels of the screen."""
        area = self.evaluate("document.querySelector('.openseadragon-canvas').getBoundingClientRect().toJSON()")
        x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
        self._mouse("mouseMoved", x, y)
        self._mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        for share in np.linspace(0, 1, steps + 1)[1:].tolist():
            self._mouse("mouseMoved", x + share * dx, y + share * dy, button="left", buttons=1)
        self._mouse("mouseReleased", x + dx, y + dy, button="left", clickCount=1)

    def _mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        self.session.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def frames_ms(self) -> np.ndarray:
        """The times between frames since `watch_frames`."""
        return np.array(self.evaluate("cancelAnimationFrame(window.frameRequest), window.frames_ms"))

    def watch_frames(self) -> None:
        self.evaluate(f"(() => {{{_FRAMES}}})()")

    def heap_mb(self) -> float:
        """What the page's scripts hold, and what of it is not collected yet."""
        return float(self.session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser; ended at the end."""
    with ExitStack() as stack:
        # Its processes end one after the other, and the last ones still write.
        profile = tempfile.TemporaryDirectory(prefix="slidecascade-browser-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(profile))
        command = [str(CHROMIUM), *_OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        stack.callback(process.terminate)
        address, path = _debugger(process, folder / "DevToolsActivePort")
        client = stack.enter_context(httpx.Client())
        session = stack.enter_context(_driving(f"{address}{path}", client))
        yield Browser(session, address, client)


def _debugger(process: subprocess.Popen[bytes], written: Path) -> tuple[str, str]:
    """Address and path of the browser's debugger, which it writes into its profile at start."""
    ends_at = time.monotonic() + _LATE_S
    while process.poll() is None and time.monotonic() < ends_at:
        if written.exists() and len(lines := written.read_text(encoding="ascii").split()) == 2:
            return f"ws://127.0.0.1:{lines[0]}", lines[1]
        time.sleep(_POLL_S)
    raise RuntimeError("Chromium did not start, or ended at once")


def _anonymous_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous:")) / 1e3
