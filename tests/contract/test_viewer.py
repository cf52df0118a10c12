"""The page, in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

import odd_slides
from served_jobs import succeeded
from served_process import Server, StartServer
from slidecascade.web.viewer import BUILT
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_render.slides import write_pyramid
from toy_channels import field_of, write_stack

CHROMIUM = shutil.which("chromium")
AXE = BUILT.parent / "node_modules" / "axe-core" / "axe.min.js"
REGIONS = re.compile(r"/v1/regions\?")
SLIDE = "rendered.tiff"
STACK = "stack.ome.tiff"
ONE_LEVEL = "one-level.tiff"
BROKEN = "no columns.tif"
UNREADABLE = "floats.tif"
SIZE_PX = (1536, 1024)
ONE_LEVEL_PX = (4096, 3072)
MPP = 0.25
FIRST_STAGES = ["nuclei-unet", "nash-cell"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
    pytest.mark.skipif(not BUILT.is_dir(), reason="the page is not built (make viewer)"),
]


GREY_PIXELS = """() => {
    const canvas = document.querySelector("canvas.over");
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext("2d", {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
    let grey = 0;
    for (let i = 0; i < data.length; i += 4) {
        if (data[i + 3] > 200 && data[i] === 136 && data[i + 1] === 136 && data[i + 2] === 136) grey++;
    }
    return grey;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slides of the server."""
    return tmp_path_factory.mktemp("viewer-slides")


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Server:
    """The bundled networks, a rendered slide, and jobs."""
    newest = max(path.stat().st_mtime for path in (BUILT.parent / "src").iterdir())
    assert (BUILT / "index.html").stat().st_mtime >= newest, "the page is older than its source: run make viewer"
    slides = folder
    write_slide(slides / SLIDE, TissueOptions(seed=3, mpp=MPP), *SIZE_PX)
    (slides / "other.tiff").write_bytes((slides / SLIDE).read_bytes())
    write_stack(slides / STACK, field_of(3)[[0, 2]])
    write_one_level(slides / ONE_LEVEL)
    for name in (BROKEN, UNREADABLE):
        odd_slides.REFUSED[name][0](slides / name)
    jobs_dir = tmp_path_factory.mktemp("viewer-jobs") / "jobs"
    return start_server(slides=slides, jobs_dir=jobs_dir, jobs_min_free_bytes=0)


def write_one_level(path: Path) -> None:
    """A slide without smaller levels, coarse ones of which are made: one block again and again."""
    block = render(TissueOptions(seed=5, mpp=MPP), width_px=512, height_px=512).image

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        rows, columns = (y_px + np.arange(height_px)) % 512, (x_px + np.arange(width_px)) % 512
        return np.asarray(block[rows[:, None], columns])

    write_pyramid(path, draw, *ONE_LEVEL_PX, mpp=MPP, levels=1)


def finished(server: Server, pipeline: str) -> str:
    """The id of a job of the rendered slide that has succeeded."""
    answer = httpx.post(f"{server.url}/v1/jobs", json={"pipeline": pipeline, "slide": SLIDE}, timeout=30)
    return succeeded(server, answer.raise_for_status().json()["id"])


def again(visit: Visit, answered: Any) -> Any:
    """The files of a region as the server gives them to the same request; the browser keeps no large bodies."""
    answer = httpx.post(
        f"{visit.url}/v1/regions",
        json=answered.value.request.post_data_json,
        headers={"Accept": "application/zip"},
        timeout=60,
    )
    with zipfile.ZipFile(io.BytesIO(answer.raise_for_status().content)) as files:
        return {name: json.loads(files.read(name)) for name in files.namelist() if name.endswith("json")}


@pytest.fixture(scope="module")
def nuclei_job(server: Server) -> str:
    return finished(server, "nuclei")


@pytest.fixture(scope="module")
def job(server: Server) -> str:
    return finished(server, "nash")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page in a tab, with all that it asked for and complained about."""

    def __init__(self, browser: Any, server: Server, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1400, "height": 900}, "locale": "en"} | options
        )
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.tab = self.context.new_page()
        self.url = server.url
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("console", self._listen)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def open(self, state: str = "") -> Any:
        self.tab.goto(f"{self.url}/viewer/{state}")
        self.tab.wait_for_selector(".slides button")
        return self.tab

    def wait(self, condition: Callable[[], bool], *, seconds: float = 60) -> None:
        ends_at = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends_at, f"not within {seconds} s; complaints: {self.complaints}"
            self.tab.wait_for_timeout(50)

    def settle(self, answered: Any) -> None:
        """Waits until the page has taken an answer, and drawn it."""
        answered.value.finished()
        self.tab.wait_for_load_state("networkidle")
        self.frames()

    def hold(self, pattern: str | re.Pattern[str]) -> list[Any]:
        """The requests of `pattern` from now on, which wait until they are continued."""
        held: list[Any] = []

        def keep(route: Any) -> None:
            held.append(route)

        self.tab.route(pattern, keep)
        return held

    def frames(self) -> None:
        """Waits until some frames were drawn."""
        for _ in range(10):
            self.tab.evaluate("() => new Promise((done) => requestAnimationFrame(done))")

    def ink(self) -> int:
        """How many pixels of the canvas over the slide are drawn on."""
        return int(
            self.tab.evaluate(
                """() => {
                    const canvas = document.querySelector("canvas.over");
                    if (!canvas.width || !canvas.height) return 0;
                    const copy = new OffscreenCanvas(canvas.width, canvas.height);
                    const context = copy.getContext("2d", {willReadFrequently: true});
                    context.drawImage(canvas, 0, 0);
                    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
                    let drawn = 0;
                    for (let i = 3; i < data.length; i += 4) if (data[i]) drawn++;
                    return drawn;
                }"""
            )
        )


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    """A visit that must end without a complaint, and with no request to another host."""
    made = Visit(browser, server)
    yield made
    complaints, strangers = (
        made.complaints,
        [url for url in made.asked if not url.startswith((made.url, "blob:", "data:"))],
    )
    made.context.close()
    assert not complaints
    assert not strangers


def test_shows_the_slides_with_thumbnails_and_finds_one_by_name(visit: Visit) -> None:
    tab = visit.open()
    without = f"{BROKEN}, {UNREADABLE}"
    shown = """(without) => [...document.images].every((image) =>
        image.naturalWidth > 0 !== without.includes(image.closest("button").dataset.slide))"""
    visit.wait(lambda: tab.evaluate(shown, without))
    assert "1,536 × 1,024 · 0.25 µm" in tab.inner_text(f"[data-slide='{SLIDE}']")
    tab.fill("input[type=search]", "other")
    assert tab.locator(".slides button:visible").all_inner_texts()[0].startswith("other.tiff")
    assert tab.locator(".slides button:visible").count() == 1
    assert "For research use only" in tab.inner_text("footer")


def test_zooms_by_keys_and_states_the_scale(visit: Visit) -> None:
    tab = visit.open()
    tab.click(f"[data-slide='{SLIDE}']")
    visit.wait(lambda: tab.is_visible(".bar") and "µm" in tab.inner_text(".bar"))
    before = tab.inner_text(".bar")
    tab.focus(".openseadragon-canvas")
    for _ in range(4):
        tab.keyboard.press("+")
    visit.wait(lambda: tab.inner_text(".bar") != before)
    tab.hover(".openseadragon-canvas")
    visit.wait(lambda: bool(re.fullmatch(r"x \d+, y \d+ · .+×", tab.inner_text(".position"))))
    tab.keyboard.press("0")
    visit.wait(lambda: tab.inner_text(".bar") == before)
    # A tile of level 0 was fetched in the slide's own coordinates, at an address that names the content.
    assert any(
        re.search(r"/dzi_files/11/\d+_\d+\.jpeg\?content_id=[0-9a-f]{64}&standin=1$", url) for url in visit.asked
    )


def test_shows_the_new_content_of_a_slide_that_is_replaced(visit: Visit, server: Server, folder: Path) -> None:
    """With a sentence, and without a failed tile: the new slide is smaller."""
    write_slide(folder / "replaced.tiff", TissueOptions(seed=3, mpp=MPP), *SIZE_PX)
    write_slide(folder.parent / "new.tiff", TissueOptions(seed=4, mpp=MPP), 1024, 768)
    tab = visit.open(f"#slide=replaced.tiff&view=0,0,{SIZE_PX[0]},{SIZE_PX[1]}")
    visit.wait(lambda: tab.is_visible(".bar"))
    (folder.parent / "new.tiff").rename(folder / "replaced.tiff")
    tab.focus(".openseadragon-canvas")
    for _ in range(3):
        tab.keyboard.press("+")
    tab.wait_for_selector("text=was replaced while it was shown")
    (info,) = httpx.get(f"{server.url}/v1/slides?only=replaced.tiff", timeout=30).json()["slides"]
    visit.wait(lambda: any(f"content_id={info['info']['content_id']}" in url for url in visit.asked))
    # The page still reads tiles of it, which without its file would be failures.
    tab.goto("about:blank")
    (folder / "replaced.tiff").unlink()


def test_runs_the_view_and_shows_its_cells_and_one_of_them(visit: Visit) -> None:
    tab = visit.open()
    tab.click(f"[data-slide='{SLIDE}']")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nash")
    tab.click("[data-run=view]")
    tab.wait_for_selector("tr[data-class]", timeout=120_000)
    visit.wait(lambda: visit.ink() > 1000)
    counts = [
        int(cell.replace(",", "")) for cell in tab.locator("tr[data-class] td:nth-child(3)").all_inner_texts()
    ]
    assert sum(counts) > 50
    tab.focus(".openseadragon-canvas")
    tab.keyboard.press("n")
    tab.wait_for_selector(".id")
    assert "nash-cell Hepatocyte probability" in tab.inner_text("[aria-label=Cell]")
    tab.click("text=Copy as GeoJSON")
    visit.wait(lambda: "Copied." in tab.inner_text("[aria-label=Cell]"))
    feature = json.loads(tab.evaluate("() => navigator.clipboard.readText()"))
    assert feature["id"] == tab.inner_text(".id")


def test_a_region_that_is_answered_after_another_slide_was_chosen_is_not_shown(visit: Visit) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=200,200,300,300")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nuclei")
    held = visit.hold(REGIONS)
    tab.click("[data-run=view]")
    visit.wait(lambda: bool(held))
    # Nobody waits for what is of a slide that is no longer shown.
    with tab.expect_event("requestfailed", lambda request: bool(REGIONS.search(request.url))):
        tab.click("[data-slide='other.tiff']")
    visit.wait(lambda: tab.locator("[data-run=view].busy").count() == 0)
    tab.wait_for_load_state("networkidle")
    assert tab.locator("tr[data-class]").count() == 0
    assert visit.ink() == 0


def test_a_job_that_arrives_after_another_slide_was_chosen_is_not_shown(visit: Visit, nuclei_job: str) -> None:
    tab = visit.open(f"#slide={SLIDE}")
    visit.wait(lambda: tab.is_visible(".bar"))
    held = visit.hold("**/v1/jobs/*/result")
    tab.click(f"[data-job-act=open-{nuclei_job}]")
    visit.wait(lambda: bool(held))
    tab.click("[data-slide='other.tiff']")
    with tab.expect_response("**/v1/jobs/*/result") as answered:
        held[0].continue_()
    visit.settle(answered)
    assert tab.locator("tr[data-class]").count() == 0
    assert visit.ink() == 0


def test_cells_of_a_view_that_was_left_do_not_replace_those_of_the_view(
    browser: Any, server: Server, job: str
) -> None:
    visit = Visit(browser, server, reduced_motion="reduce")  # so that a drag ends when it does
    tab = visit.open(f"#slide={SLIDE}&view=200,100,280,250&job={job}")
    visit.wait(lambda: visit.ink() > 0)

    def seen() -> str:
        return str(tab.get_attribute("[data-in-view]", "data-in-view"))

    def drag(dx: float) -> None:
        area = tab.locator(".openseadragon-canvas").first.bounding_box()
        x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(x + dx, y, steps=4)
        tab.mouse.up()
        visit.frames()

    here = seen()
    held = visit.hold("**/cells?bbox=*")
    drag(-500)
    visit.wait(lambda: bool(held))
    drag(500)
    with tab.expect_response("**/cells?bbox=*") as answered:
        for route in held:
            route.continue_()
    visit.settle(answered)
    assert seen() == here
    drag(-500)
    assert seen() != here, "the views hold the same number of cells: this test finds nothing"
    visit.context.close()


def test_a_threshold_that_is_no_number_is_not_sent(visit: Visit) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=200,200,300,300")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nuclei")
    tab.fill("[name=nuclei-unet]", "")
    tab.click("[data-run=view]")
    assert tab.locator("[name=nuclei-unet]:focus:invalid").count() == 1
    assert not any("/v1/regions" in url for url in visit.asked)
    tab.fill("[name=nuclei-unet]", "0.75")
    with tab.expect_request(REGIONS) as sent:
        tab.click("[data-run=view]")
    assert sent.value.post_data_json["thresholds"] == {"nuclei-unet": 0.75}


def test_follows_jobs_again_after_the_server_was_away(browser: Any, server: Server, job: str) -> None:
    visit = Visit(browser, server)
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route)
        if len(asked) == 2:
            route.fulfill(status=503)
            return
        jobs = route.fetch().json()
        if len(asked) == 1:
            next(item for item in jobs["jobs"] if item["id"] == job)["status"] = "running"
        route.fulfill(json=jobs)

    visit.tab.route("**/v1/jobs?limit=30", answer)
    tab = visit.open()
    tab.wait_for_selector(f"[data-job='{job}'][data-status=running]")
    tab.wait_for_selector("[role=alert] .problem")
    assert "503" in tab.inner_text("[role=alert]")
    tab.wait_for_selector(f"[data-job='{job}'][data-status=succeeded]")
    assert tab.locator("[role=alert] .problem").count() == 0
    visit.context.close()


def test_an_answer_that_cannot_be_read_is_a_sentence(browser: Any, server: Server) -> None:
    visit = Visit(browser, server)
    visit.tab.route(REGIONS, lambda route: route.fulfill(body=b"PK", content_type="application/zip"))
    tab = visit.open(f"#slide={SLIDE}&view=200,200,300,300")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.click("[data-run=view]")
    tab.wait_for_selector("[role=alert] .problem")
    assert "The archive is truncated." in tab.inner_text("[role=alert]")
    visit.context.close()


def test_lays_heatmaps_over_a_region(visit: Visit) -> None:
    """In the first colour map as they came with the cells, in another one on demand; fractions as the server has
    them."""
    tab = visit.open(f"#slide={SLIDE}&view=200,200,900,700")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nash")
    with tab.expect_response(REGIONS) as answered:
        tab.click("[data-run=view]")
    # What the page does not show is not sent to it.
    assert answered.value.url.endswith("?colormap=viridis&without=overlay,figures")
    fractions = again(visit, answered)["summary.json"]["fractions"]
    tab.wait_for_selector("tr[data-class]")
    panel = tab.inner_text("[aria-label=Result]")
    for share in fractions.values():
        assert f"{share['numerator']:,}" in panel
        assert f"{share['denominator']:,}" in panel
    asked = len(visit.asked)
    canvas = tab.locator(".openseadragon-canvas").first
    plain = canvas.screenshot()
    tab.fill("[data-layer=steatosis]", "1")
    visit.wait(lambda: canvas.screenshot() != plain)
    assert not [url for url in visit.asked[asked:] if "/v1/regions" in url]
    with tab.expect_response(REGIONS) as answered:
        tab.get_by_label("Colour map").select_option("jet")
    assert "heatmap=steatosis&colormap=jet" in answered.value.url
    assert answered.value.headers["content-type"] == "image/png"


def test_counts_the_tiles_of_patches_and_not_the_outlines_around_them(visit: Visit) -> None:
    tab = visit.open(f"#slide=other.tiff&view=0,0,{SIZE_PX[0]},{SIZE_PX[1]}")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "tumor-heatmap")
    with tab.expect_response(REGIONS) as answered:
        tab.click("[data-run=view]")
    files = again(visit, answered)
    kinds = [feature["properties"]["objectType"] for feature in files["tiles.geojson"]["features"]]
    assert kinds.count("annotation") > 0
    expected = f"{files['summary.json']['counts']['Tumour']} of {kinds.count('tile')}"
    visit.wait(lambda: tab.locator("tr[data-class=Tumour] td").last.inner_text() == expected)


def test_runs_a_box_that_is_drawn(visit: Visit) -> None:
    tab = visit.open()
    tab.click(f"[data-slide='{SLIDE}']")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nuclei")
    tab.click("[data-run=draw]")
    area = tab.locator(".openseadragon-canvas").first.bounding_box()
    middle_x, middle_y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    tab.mouse.move(middle_x - 120, middle_y - 90)
    tab.mouse.down()
    tab.mouse.move(middle_x + 120, middle_y + 90, steps=5)
    tab.mouse.up()
    visit.wait(lambda: tab.is_enabled("[data-run=box]"))
    with tab.expect_request(REGIONS) as sent:
        tab.click("[data-run=box]")
    region = sent.value.post_data_json["region"]
    assert 0 < region["x"] < region["x"] + region["width"] < SIZE_PX[0]
    # The box has the proportions that were drawn.
    assert abs(region["width"] / region["height"] - 240 / 180) < 0.05
    visit.wait(lambda: visit.ink() > 200)


def test_draws_a_box_by_keys_alone(visit: Visit) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nuclei")
    tab.focus("[data-run=draw]")
    tab.keyboard.press("Enter")
    assert "arrow keys" in tab.inner_text("[aria-label=Analyse]")
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Enter"):
        tab.keyboard.press(key)
    # The focus is on the button that runs it.
    with tab.expect_request(REGIONS) as sent:
        tab.keyboard.press("Enter")
    region = sent.value.post_data_json["region"]
    # The middle of the view is at 550, 500; it holds all that the link asks for.
    left, right = region["x"], region["x"] + region["width"]
    assert 425 < left < 550 < right < 760
    assert region["y"] + region["height"] / 2 > 520
    tab.wait_for_selector("tr[data-class]", timeout=60_000)


def test_shows_all_of_a_slide_when_it_is_opened_first(visit: Visit) -> None:
    """As the key 0 does: also before anything was laid out."""
    tab = visit.open()
    tab.click(f"[data-slide='{SLIDE}']")
    visit.wait(lambda: tab.is_visible(".bar") and "µm" in tab.inner_text(".bar"))
    first = tab.locator(".bar").bounding_box()["width"]
    tab.focus(".openseadragon-canvas")
    for key in ("+", "0"):
        tab.keyboard.press(key)
    visit.wait(lambda: abs(tab.locator(".bar").bounding_box()["width"] - first) < 0.5)


@pytest.mark.parametrize(("pipeline", "layer"), [("tumor-heatmap", "tumor"), ("fat", "fat")])
def test_lays_tiles_of_patches_and_areas_with_their_heatmap(
    visit: Visit, server: Server, pipeline: str, layer: str
) -> None:
    made = finished(server, pipeline)
    tab = visit.open(f"#slide={SLIDE}&job={made}&outlines=0&fill=0")
    tab.wait_for_selector("tr[data-class]")
    assert visit.ink() == 0
    with tab.expect_response(lambda answer: f"heatmap={layer}" in answer.url) as answered:
        tab.fill(f"[data-layer={layer}]", "0.5")
    assert answered.value.headers["content-type"] == "image/png"
    # By a measurement, which tiles without a class have as well.
    visit.wait(lambda: tab.locator("[name=color-by] option").count() > 1)
    tab.select_option("[name=color-by]", index=1)
    tab.check("[name=outlines]")
    visit.wait(lambda: visit.ink() > 0)
    lines = visit.ink()
    tab.fill("[name=fill]", "0.5")
    visit.wait(lambda: visit.ink() > lines)


def test_states_why_a_slide_cannot_be_shown(browser: Any, server: Server) -> None:
    """A damaged file opens, and its tiles and thumbnail are refused: once, however many tiles that are."""
    visit = Visit(browser, server)
    refused = {"type": "urn:slidecascade:problem:unreadable-slide", "detail": "Copy it again.", "request_id": "7"}
    answer = {"status": 422, "content_type": "application/problem+json", "body": json.dumps(refused)}
    for path in ("**/dzi_files/**", "**/thumbnail*"):
        visit.tab.route(path, lambda route: route.fulfill(**answer))
    tab = visit.open(f"#slide={SLIDE}")
    tab.wait_for_selector("[role=alert] .problem")
    assert "Copy it again." in tab.inner_text("[role=alert]")
    assert tab.locator("[role=alert] .problem").count() == 1
    visit.context.close()


@pytest.mark.parametrize("name", [BROKEN, UNREADABLE])
def test_a_slide_that_cannot_be_shown_is_no_error_of_the_page(visit: Visit, name: str) -> None:
    """Neither where it is listed nor where it is opened, whether the file or only its pixels cannot be read."""
    tab = visit.open(f"#slide={name}")
    tab.wait_for_selector("[role=alert] .problem")
    reason = r"The slide.*(cannot be opened|8 or 16 bits)"
    assert re.search(reason, tab.inner_text("[role=alert]"))
    assert re.search(r"request [0-9a-f]{32}", tab.inner_text("[role=alert]"))
    tab.locator(f"[data-slide='{name}']").scroll_into_view_if_needed()
    visit.wait(lambda: bool(re.search(reason, tab.inner_text(f"[data-slide='{name}'] .note"))))
    tab.wait_for_load_state("networkidle")
    tab.click(f"[data-slide='{SLIDE}']")
    visit.wait(lambda: "µm" in tab.inner_text(".bar"))
    assert tab.locator("[role=alert] .problem").count() == 0


def test_a_click_selects_the_cell_below_it(visit: Visit, job: str) -> None:
    cells = httpx.get(f"{visit.url}/v1/jobs/{job}/cells?bbox=400,300,500,400", timeout=30).json()["features"]
    largest = max(cells, key=lambda cell: cell["properties"]["measurements"]["Area µm^2"])
    ring = largest["geometry"]["coordinates"][0][1:]
    x, y = (round(sum(point[axis] for point in ring) / len(ring)) for axis in (0, 1))
    tab = visit.open(f"#slide={SLIDE}&view={x - 80},{y - 60},160,120&job={job}")
    visit.wait(lambda: visit.ink() > 200)
    area = tab.locator(".openseadragon-canvas").first.bounding_box()
    tab.mouse.click(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    tab.wait_for_selector(".id")
    assert tab.inner_text(".id") == largest["id"]


def test_analyses_an_image_of_this_computer(visit: Visit, tissue_png: bytes) -> None:
    tab = visit.open()
    tab.set_input_files("input[type=file]", {"name": "tile.png", "mimeType": "image/png", "buffer": tissue_png})
    visit.wait(lambda: tab.is_visible("[name=mpp]") and not tab.is_visible("[data-run=slide]"))
    visit.wait(lambda: tab.locator(".hint").inner_text() == "")
    tab.select_option("[name=pipeline]", "nuclei")
    tab.fill("[name=mpp]", "0.5")
    tab.click("[data-run=view]")
    tab.wait_for_selector("tr[data-class]", timeout=60_000)
    visit.wait(lambda: visit.ink() > 200)
    broken = {"name": "scan.png", "mimeType": "image/png", "buffer": b"no picture"}
    tab.set_input_files("input[type=file]", broken)
    tab.wait_for_selector("[role=alert] .problem")
    assert "save it as PNG" in tab.inner_text("[role=alert]")


def test_sends_the_key_with_every_request_and_keeps_it_nowhere(visit: Visit) -> None:
    keys: list[tuple[str, str | None]] = []
    visit.tab.on("request", lambda request: keys.append((request.url, request.headers.get("x-api-key"))))
    tab = visit.open()
    tab.fill("[name=key]", "secret-7")
    tab.wait_for_load_state("networkidle")  # what the list asked for before there was a key
    keys.clear()
    tab.click("text=Use the key")
    tab.click("[data-slide='other.tiff']")
    visit.wait(lambda: any("/dzi_files/" in url for url, _ in keys))
    assert {key for url, key in keys if "/v1/" in url} == {"secret-7"}
    assert "secret-7" not in tab.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "secret-7" not in tab.url + tab.evaluate("() => document.cookie")


def test_hides_a_class_and_those_of_low_probability(visit: Visit, job: str) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}")
    tab.wait_for_selector("tr[data-class]")
    visit.wait(lambda: visit.ink() > 1000)
    for box in tab.locator("tr[data-class] input").all():
        box.uncheck()
    visit.wait(lambda: visit.ink() == 0)
    for box in tab.locator("tr[data-class] input").all():
        box.check()
    visit.wait(lambda: visit.ink() > 1000)
    before = visit.ink()
    tab.locator("[aria-label=Result] label:has-text('Minimum') input").fill("1")
    visit.wait(lambda: visit.ink() < before)


def test_analyses_a_whole_slide_as_a_job_with_its_layers(visit: Visit) -> None:
    tab = visit.open()
    tab.click("[data-slide='other.tiff']")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nash")
    tab.click("[data-run=slide]")
    item = tab.locator("[data-job]:has-text('other.tiff')").first
    visit.wait(lambda: item.get_attribute("data-status") == "succeeded", seconds=180)
    item.locator("button").click()
    tab.wait_for_selector("tr[data-class]")
    layer = tab.locator("[data-layer]").first.get_attribute("data-layer")
    tab.locator("[data-layer]").first.fill("0.5")
    visit.wait(lambda: any(f"/layers/{layer}/" in url for url in visit.asked))
    # Coarse: the colours of all cells instead of outlines.
    tab.set_viewport_size({"width": 1150, "height": 420})
    tab.focus(".openseadragon-canvas")
    for _ in range(5):
        tab.keyboard.press("-")
    visit.wait(lambda: any("/layers/classes/" in url for url in visit.asked))


def test_a_link_restores_slide_view_result_and_layers(visit: Visit, job: str) -> None:
    state = f"#slide={SLIDE}&view=200%2C200%2C600%2C400&job={job}&hide=Other&layer=0.5+immune-density&letters=1"
    tab = visit.open(state)
    tab.wait_for_selector("tr[data-class=Other]")
    assert not tab.is_checked("tr[data-class=Other] input")
    assert tab.is_checked("[name=letters]")
    visit.wait(lambda: visit.ink() > 100)
    tab.click("text=Copy link to this view")
    visit.wait(lambda: "Copied." in tab.inner_text("[aria-label=Export]"))
    copied = tab.evaluate("() => navigator.clipboard.readText()")
    assert f"job={job}" in copied
    assert "hide=Other" in copied


def test_exports_what_is_in_view_and_all(visit: Visit, job: str, tmp_path: Path) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}")
    visit.wait(lambda: visit.ink() > 1000)

    def saved(label: str) -> bytes:
        with tab.expect_download() as coming:
            tab.get_by_role("button", name=label, exact=True).click()
        coming.value.save_as(tmp_path / label)
        return (tmp_path / label).read_bytes()

    features = json.loads(saved("GeoJSON"))["features"]
    assert len(saved("CSV").splitlines()) == len(features) + 1 > 20
    assert saved("Picture (PNG)").startswith(b"\x89PNG")
    in_view = httpx.get(f"{visit.url}/v1/jobs/{job}/cells?bbox=300,300,500,400", timeout=30).json()["features"]
    by_id = {feature["id"]: feature for feature in features}
    assert {feature["id"] for feature in in_view} <= set(by_id)
    # What was drawn from numbers is what the server has sent.
    assert all(by_id[feature["id"]] == feature for feature in in_view)
    # A file of the server holds all cells, whatever is in view.
    tab.get_by_role("button", name="Parquet", exact=True).click()
    tab.wait_for_selector("text=A Parquet file holds all of the result")
    dsa = json.loads(saved("DSA"))["features"]
    assert {item["properties"]["group"] for item in dsa} == {
        item["properties"]["classification"]["name"] for item in features
    }
    tab.select_option("[name=export-scope]", "all")
    total = sum(
        httpx.get(f"{visit.url}/v1/jobs/{job}/result", timeout=30).json()["slidecascade"]["counts"].values()
    )
    assert len(json.loads(saved("GeoJSON"))["features"]) == total > len(features)
    assert len(saved("CSV").splitlines()) == total + 1
    assert saved("Parquet").startswith(b"PAR1")


def test_shows_the_area_of_fat_beside_the_fractions_of_cells(visit: Visit, job: str) -> None:
    """Both parts of the division, in the language chosen; for a region as for a job."""
    answer = httpx.get(f"{visit.url}/v1/jobs/{job}/result", headers={"Accept": "application/json"}, timeout=30)
    share = answer.json()["area_fractions"]["steatosis_area_fraction"]
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}")
    tab.wait_for_selector("[data-covered=steatosis_area_fraction]")
    shown = tab.inner_text("[data-covered]")
    assert shown.startswith("Fat vacuoles by area of tissue: ")
    match = re.search(r"% \(([\d.]+) of ([\d.]+) mm² tissue\)$", shown)
    assert match is not None, shown
    part, whole = match.groups()
    assert float(part) == pytest.approx(share["numerator_mm2"], abs=6e-4)
    assert float(whole) == pytest.approx(share["denominator_mm2"], abs=6e-4)
    tab.click("text=Deutsch")
    assert tab.inner_text("[data-covered]").startswith("Fettvakuolen nach Gewebefläche: ")
    tab.select_option("[name=pipeline]", "nash")
    with tab.expect_response(REGIONS, timeout=120_000) as answered:
        tab.click("[data-run=view]")
    found = again(visit, answered)["summary.json"]["area_fractions"]["steatosis_area_fraction"]
    visit.wait(
        lambda: (
            f"von {found['denominator_mm2']:.3f}".rstrip("0").replace(".", ",") in tab.inner_text("[data-covered]")
        )
    )


def test_asks_only_for_the_squares_that_panning_brings_into_view(visit: Visit, job: str) -> None:
    """All of the first view in one request, then what is new, and nothing for what was seen before."""
    tab = visit.open(f"#slide={SLIDE}&view=0,0,500,400&job={job}")
    visit.wait(lambda: visit.ink() > 200)
    boxes = [url.partition("bbox=")[2] for url in visit.asked if "/cells?bbox=" in url]
    squares = [covered for box in boxes for covered in squares_of(*map(int, box.split(",")))]
    assert squares
    assert len(squares) == len(set(squares)), f"a square was asked for twice: {boxes}"
    seen = len(boxes)
    shown = int(tab.get_attribute("[data-in-view]", "data-in-view"))
    assert shown > 0
    tab.focus(".openseadragon-canvas")
    tab.keyboard.press("0")
    visit.wait(lambda: int(tab.get_attribute("[data-in-view]", "data-in-view")) > shown)
    boxes = [url.partition("bbox=")[2] for url in visit.asked if "/cells?bbox=" in url]
    assert len(boxes) > seen
    squares = [covered for box in boxes for covered in squares_of(*map(int, box.split(",")))]
    assert len(squares) == len(set(squares)), f"a square was asked for twice: {boxes}"


def squares_of(x: int, y: int, width: int, height: int) -> list[tuple[int, int]]:
    """The squares of 512 px in a box."""
    return [(column, row) for row in range(y, y + height, 512) for column in range(x, x + width, 512)]


def test_compares_two_results_at_a_divider(visit: Visit, job: str, nuclei_job: str) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}&color=nash-cell+Immune+probability")
    visit.wait(lambda: visit.ink() > 1000)
    tab.click(f"[data-job-act='compare-{nuclei_job}']")
    tab.wait_for_selector("tr[data-compared=Nucleus]")
    count = httpx.get(f"{visit.url}/v1/jobs/{nuclei_job}", timeout=30).json()["progress"]["cells"]
    assert tab.inner_text("tr[data-compared=Nucleus] td:nth-child(3)") == str(count)

    def grey() -> int:
        """Pixels of the outlines that have no value of the measurement: those of the result at the right."""
        return int(tab.evaluate(GREY_PIXELS))

    visit.wait(lambda: grey() > 100)
    half = grey()
    tab.fill("[name=divider]", "0.05")
    visit.wait(lambda: grey() > 1.3 * half)
    tab.focus("[name=divider]")
    tab.keyboard.press("End")
    visit.wait(lambda: grey() < half / 4)
    tab.click("text=Copy link to this view")
    visit.wait(lambda: f"other={nuclei_job}" in tab.url)
    tab.click("text=End the comparison")
    visit.wait(lambda: not tab.is_visible("[name=divider]"))


def test_colours_by_a_measurement_with_its_histogram(visit: Visit, job: str) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}")
    visit.wait(lambda: visit.ink() > 1000)
    tab.select_option("[name=color-by]", "Area µm^2")
    tab.wait_for_selector(".histogram rect")
    label = tab.get_attribute(".histogram", "aria-label")
    in_view = int(tab.get_attribute("[data-in-view]", "data-in-view"))
    assert re.fullmatch(rf"{in_view} values, mean [\d.]+", label)
    heights = tab.locator(".histogram rect").evaluate_all(
        "(bars) => bars.map((bar) => +bar.getAttribute('height'))"
    )
    assert max(heights) == 40
    assert sum(height > 0 for height in heights) > 3


def test_shows_a_cell_as_each_network_was_given_it(visit: Visit, job: str) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}")
    visit.wait(lambda: visit.ink() > 1000)
    tab.focus(".openseadragon-canvas")

    def next_of(name: str) -> None:
        for _ in range(100):
            tab.keyboard.press("n")
            if tab.inner_text("[aria-label=Cell] strong").startswith(name):
                return
        raise AssertionError(f"no {name} in view")

    next_of("Immune")
    crops = tab.locator("[data-crop]")
    # The second classifier is given hepatocytes only.
    visit.wait(lambda: crops.evaluate_all("(all) => all.map((each) => each.dataset.crop)") == FIRST_STAGES)
    next_of("Hepatocyte")
    visit.wait(lambda: crops.count() == 3)
    visit.wait(lambda: crops.evaluate_all("(images) => images.every((image) => image.naturalWidth > 0)"))
    sizes = crops.evaluate_all("(images) => images.map((image) => [image.dataset.crop, image.naturalWidth])")
    assert dict(sizes) == {"nuclei-unet": 128, "nash-cell": 72, "nash-hepatocyte": 96}


def test_the_crop_of_a_cell_is_the_one_around_its_own_centroid(server: Server, job: str) -> None:
    """Wherever in the cell the point is; and as the slide's route cuts it at the centroid of the file."""
    table = httpx.get(f"{server.url}/v1/jobs/{job}/files/cells.parquet", timeout=30).content
    rows = pq.read_table(io.BytesIO(table)).to_pylist()
    for row in rows[:: len(rows) // 5]:
        x, y = row["centroid_x"], row["centroid_y"]
        beside = {"x": x + 0.4, "y": y - 0.4}
        found = httpx.get(f"{server.url}/v1/jobs/{job}/crops/nash-hepatocyte.png", params=beside, timeout=30)
        exact = {"pipeline": "nash", "x": x, "y": y}
        expected = httpx.get(f"{server.url}/v1/slides/{SLIDE}/crops/nash-hepatocyte.png", params=exact, timeout=30)
        assert found.content == expected.raise_for_status().content
    nowhere = httpx.get(f"{server.url}/v1/jobs/{job}/crops/nash-cell.png?x=100000&y=0", timeout=30)
    assert nowhere.json()["type"] == "urn:slidecascade:problem:invalid-request"


def test_shows_the_channels_of_a_stack_in_colours_of_ones_own(visit: Visit) -> None:
    tab = visit.open(f"#slide={STACK}")
    tab.wait_for_selector("[name=channel-1]")
    visit.wait(lambda: any("/dzi_files/" in url for url in visit.asked))
    tab.uncheck("[name=channel-1]")
    visit.wait(lambda: any("channels=0%3A005aff%3A0%3A1" in url and "/dzi_files/" in url for url in visit.asked))
    tab.locator(".channel input[type=color]").first.fill("#ff0000")
    tab.locator(".channel [data-limit=high]").first.fill("0.5")
    visit.wait(lambda: any("channels=0%3Aff0000%3A0%3A0.5" in url for url in visit.asked))
    tab.click("text=Copy link to this view")
    visit.wait(lambda: "channels=0%3Aff0000" in tab.url)


def test_a_run_takes_stain_and_thresholds_and_says_how_long_it_will_take(visit: Visit) -> None:
    tab = visit.open(f"#slide={SLIDE}&view=300,300,500,400")
    visit.wait(lambda: tab.is_visible(".bar"))
    tab.select_option("[name=pipeline]", "nuclei")
    tab.select_option("[name=stain]", "macenko")
    tab.fill("[name=nuclei-unet]", "0.7")
    with tab.expect_request(REGIONS) as sent:
        tab.click("[data-run=view]")
    asked = sent.value.post_data_json
    assert asked["stain"] == {"method": "macenko"}
    assert asked["thresholds"] == {"nuclei-unet": 0.7}
    tab.wait_for_selector("tr[data-class]", timeout=60_000)
    visit.wait(
        lambda: bool(re.search(r"Expected: view \d+ s · whole slide \d+ s", tab.inner_text("[data-estimate]")))
    )


def test_a_slide_of_one_level_is_shown_before_its_coarse_levels_are_made(visit: Visit) -> None:
    tab = visit.open()
    with tab.expect_response(lambda answer: "/dzi_files/" in answer.url) as first:
        tab.click(f"[data-slide='{ONE_LEVEL}']")
    assert "standin=1" in first.value.url
    visit.wait(lambda: tab.is_visible(".bar") and "µm" in tab.inner_text(".bar"))
    whole = tab.locator(".bar").bounding_box()["width"]
    tab.focus(".openseadragon-canvas")
    tab.keyboard.press("+")
    visit.wait(lambda: tab.evaluate("() => performance.getEntriesByName('exact-picture').length > 0"))
    visit.wait(lambda: tab.inner_text(".hint") == "")
    # The view stays where it was while tiles take the place of the stand-ins.
    assert tab.locator(".bar").bounding_box()["width"] != whole
    answer = httpx.get(first.value.url, timeout=30)
    assert "slidecascade-stand-in" not in answer.headers
    assert "no-store" not in answer.headers["cache-control"]


def test_lists_an_upload_by_its_time(visit: Visit, server: Server, tissue_png: bytes) -> None:
    """Not by an id, and not by a name, which may be a patient's."""
    form: dict[str, Any] = {
        "request": (None, json.dumps({"pipeline": "nuclei", "mpp": 0.5})),
        "image": ("jane doe.png", tissue_png),
    }
    made = httpx.post(f"{server.url}/v1/jobs", files=form, timeout=30).raise_for_status().json()["id"]
    succeeded(server, made)
    tab = visit.open()
    tab.wait_for_selector(f"[data-job='{made}']")
    assert re.match(r"Upload, \w+ \d+, \d{4}", tab.inner_text(f"[data-job='{made}'] .name"))


def test_a_running_job_shows_its_cells_as_they_come(
    browser: Any, start_server: StartServer, tmp_path: Path
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    write_one_level(slides / ONE_LEVEL)
    server = start_server(
        slides=slides, jobs_dir=tmp_path / "jobs", jobs_min_free_bytes=0, threads=1, max_fields_in_flight=1
    )
    visit = Visit(browser, server)
    asked = httpx.post(f"{server.url}/v1/jobs", json={"pipeline": "nuclei", "slide": ONE_LEVEL}, timeout=30)
    job = asked.raise_for_status().json()["id"]
    tab = visit.open(f"#slide={ONE_LEVEL}")
    item = tab.locator(f"[data-job='{job}']")
    visit.wait(lambda: item.get_attribute("data-status") in ("running", "succeeded"), seconds=120)
    item.locator("[data-job-act^=open]").click()
    visit.wait(lambda: tab.locator("tr[data-class]").count() > 0, seconds=120)
    # Watched or not, in the end it is the result that is shown.
    visit.wait(lambda: item.get_attribute("data-status") == "succeeded", seconds=180)
    visit.wait(lambda: tab.locator("[name=raster]").count() == 1, seconds=60)
    cells = httpx.get(f"{server.url}/v1/jobs/{job}", timeout=30).json()["progress"]["cells"]
    assert int(tab.inner_text("tr[data-class=Nucleus] td:nth-child(3)").replace(",", "")) == cells > 100
    assert not visit.complaints
    visit.context.close()


def test_a_problem_is_a_sentence_with_the_id_of_its_request(browser: Any, server: Server) -> None:
    visit = Visit(browser, server)
    tab = visit.open("#slide=gone.svs")
    tab.wait_for_selector("[role=alert] .problem")
    sentence = tab.inner_text("[role=alert]")
    assert "There is no slide 'gone.svs'" in sentence
    assert re.search(r"request [0-9a-f]{32}", sentence)
    visit.context.close()
    assert not visit.complaints


def test_speaks_german_and_is_dark_on_demand(visit: Visit) -> None:
    tab = visit.open()
    tab.click("text=Deutsch")
    assert tab.inner_text("[data-run=view]") == "Ansicht auswerten"
    assert tab.get_attribute("html", "lang") == "de"
    before = tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
    tab.click("[aria-label='Dunkel oder hell']")
    assert tab.evaluate("() => getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1400])
def test_has_no_serious_fault_of_accessibility(
    browser: Any, server: Server, job: str, theme: str, width: int
) -> None:
    """As axe-core sees it, with the list of slides alone, with a result and a cell, and with a problem and a box
    being drawn besides; the engine is injected past the page's policy."""
    size = {"width": width, "height": 900}
    visit = Visit(browser, server, viewport=size, color_scheme=theme, bypass_csp=True)
    tab = visit.open()
    visit.wait(lambda: tab.locator(".slides button").count() > 1)
    assert not serious_faults(tab)
    tab.goto("about:blank")
    visit.open(f"#slide={SLIDE}&view=300,300,500,400&job={job}")
    visit.wait(lambda: visit.ink() > 500)
    tab.focus(".openseadragon-canvas")
    tab.keyboard.press("n")
    tab.wait_for_selector(".id")
    assert not serious_faults(tab)
    assert tab.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    tab.click("text=Draw a box")
    refused = {"type": "urn:slidecascade:problem:unreadable-slide", "detail": "Copy it again.", "request_id": "7"}
    answer = {"status": 422, "content_type": "application/problem+json", "body": json.dumps(refused)}
    tab.route("**/v1/pipelines", lambda route: route.fulfill(**answer))
    tab.click("text=Use the key")
    tab.wait_for_selector("[role=alert] .problem")
    assert not serious_faults(tab)
    visit.context.close()


def serious_faults(tab: Any) -> list[tuple[str, list[str]]]:
    """What axe-core calls serious or critical, with the elements that have it."""
    if not tab.evaluate("() => 'axe' in window"):
        tab.add_script_tag(path=str(AXE))
    found = tab.evaluate("async () => (await axe.run()).violations")
    return [
        (fault["id"], [node["html"][:200] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    ]


def test_weighs_at_most_250_kb_and_forbids_inline_scripts(server: Server) -> None:
    weight = 0
    for name in ("", "page.js", "page.css"):
        answer = httpx.get(f"{server.url}/viewer/{name}", headers={"Accept-Encoding": "gzip"}, timeout=30)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        weight += int(answer.headers["content-length"])
    assert weight <= 250_000
