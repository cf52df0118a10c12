"""A real Orthanc with DICOMweb: exported objects are stored and found there, and slides are read from it."""

from __future__ import annotations

import email
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import highdicom
import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from dicom_results import made_areas, made_cells
from dicom_slide import write_dicom_slide
from orthanc import Orthanc
from served_process import Server, StartServer
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.cli import main
from slidecascade.errors import NotReadyError, UnknownSlideError, UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides.dicomwebslide import slides_of
from slidecascade.slides.slide import Slide
from slidecascade_client import Client
from surveyed import toy_analyser
from toy_pipeline import BACKGROUND, ToyPipeline

FORMS = ("dicom-ann", "dicom-sr", "dicom-seg", "dicom-pm")


@dataclass(frozen=True)
class Archive:
    """An Orthanc that holds a slide, the slide's files, and its id."""

    server: Orthanc
    files: list[Path]
    study: str
    series: str

    @property
    def slide_id(self) -> str:
        return f"dicomweb:pacs/{self.study}/{self.series}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    folder.joinpath("slide").mkdir()
    files = write_dicom_slide(folder / "slide", blobs())
    server = Orthanc(folder / "orthanc")
    try:
        for path in files:
            post(server, path)
        head = dcmread(files[0], stop_before_pixels=True)
        yield Archive(server, files, head.StudyInstanceUID, head.SeriesInstanceUID)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def analyser(archive: Archive, toy: ToyPipeline) -> Iterator[Analyser]:
    """With the slide's folder and the server."""
    made = toy_analyser(
        toy, slide_roots=(archive.files[0].parent,), dicomweb_servers=f"pacs={archive.server.url}", threads=1
    )
    yield made
    made.close()


def blobs() -> np.ndarray:
    """Dark discs on a bright slide of 800 x 640 px."""
    image = np.full((640, 800, 3), BACKGROUND, np.uint8)
    rng = np.random.default_rng(3)
    for y in range(40, 620, 60):
        for x in range(40, 780, 60):
            center = (int(x + rng.integers(-8, 8)), int(y + rng.integers(-8, 8)))
            cv2.circle(image, center, int(rng.integers(8, 14)), tuple(map(int, rng.integers(20, 120, 3))), -1)
    return image


def post(server: Orthanc, path: Path) -> None:
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--b--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    answer = httpx.post(f"{server.url}/studies", content=body, headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == 200, answer.text


def retrieved(server: Orthanc, study: str, series: str, instance: str) -> bytes:
    """The instance by WADO-RS."""
    url = f"{server.url}/studies/{study}/series/{series}/instances/{instance}"
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    answer = httpx.get(url, headers={"Accept": accept}, timeout=60).raise_for_status()
    head = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n"
    message = email.message_from_bytes(head + answer.content)
    (data,) = (part.get_payload(decode=True) for part in message.walk() if not part.is_multipart())
    assert isinstance(data, bytes)
    return data


@pytest.mark.parametrize("form", FORMS)
def test_objects_are_stored_found_and_returned(archive: Archive, tmp_path: Path, form: str) -> None:
    """By STOW-RS, QIDO-RS and WADO-RS; the returned object holds what was exported, to the last coordinate."""
    results, target = tmp_path / "results", tmp_path / "object.dcm"
    made_areas(results) if form == "dicom-seg" else made_cells(results)
    command = ["export", str(results), "--format", form, "--dicom-source", str(archive.files[0])]
    assert main([*command, "--out", str(target), "--to", f"{archive.server.url}/"]) == 0
    sent = dcmread(target)
    found = httpx.get(
        f"{archive.server.url}/instances",
        params={"SOPInstanceUID": sent.SOPInstanceUID, "StudyInstanceUID": archive.study},
        headers={"Accept": "application/dicom+json"},
        timeout=60,
    ).json()
    assert [item["00080016"]["Value"] for item in found] == [[sent.SOPClassUID]]
    data = retrieved(archive.server, archive.study, sent.SeriesInstanceUID, sent.SOPInstanceUID)
    back = dcmread(DicomBytesIO(data))
    assert back.to_json() == sent.to_json()
    if form == "dicom-ann":
        own, other = (
            highdicom.ann.MicroscopyBulkSimpleAnnotations.from_dataset(item).get_annotation_groups()
            for item in (sent, back)
        )
        for one, two in zip(own, other, strict=True):
            outlines = (one.get_graphic_data("2D"), two.get_graphic_data("2D"))
            for mine, returned in zip(*outlines, strict=True):
                np.testing.assert_array_equal(mine, returned)


def cells_of(analyser: Analyser, slide: str, **fields: object) -> Analysis:
    request = wire.parse_request({"pipeline": "toy", "slide": slide, **fields})
    result = analyser.analyse(request, None, Control()).analysis
    assert isinstance(result, Analysis)
    return result


@pytest.mark.parametrize("region", [None, {"x": 130, "y": 77, "width": 401, "height": 333}])
def test_cells_are_those_of_the_same_files_opened_locally(
    analyser: Analyser, archive: Archive, region: dict[str, int] | None
) -> None:
    """Bit for bit, but for their ids, which derive from the files."""
    fields: dict[str, object] = {} if region is None else {"region": region}
    local = cells_of(analyser, archive.files[0].name, **fields)
    remote = cells_of(analyser, archive.slide_id, **fields)
    assert len(local.instances) > 20
    np.testing.assert_array_equal(remote.instances.vertices, local.instances.vertices)
    np.testing.assert_array_equal(remote.instances.offsets, local.instances.offsets)
    np.testing.assert_array_equal(remote.class_index, local.class_index)
    for mine, theirs in zip(remote.instances.probabilities, local.instances.probabilities, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert remote.mpp == local.mpp == pytest.approx(0.5)


def test_pixels_of_all_levels_are_those_of_openslide(analyser: Analyser, archive: Archive) -> None:
    """Of level 0 and of a level with a quarter of its sides."""
    with analyser.open_slide(archive.files[0].name) as local, analyser.open_slide(archive.slide_id) as remote:
        assert remote.level_sizes == local.level_sizes
        assert remote.level_downsamples == local.level_downsamples
        for level, size in enumerate(local.level_sizes):
            for box in (Box(0, 0, size.width, size.height), Box(37, 51, 90, 77)):
                np.testing.assert_array_equal(remote.read_level(level, box), local.read_level(level, box))
        assert remote.unstored_share(0, Box(0, 0, 10, 10)) == 0


@pytest.mark.parametrize(
    "name",
    ["camelyon_lowres.dcm", "camelyon_jpeg2000.dcm", "boxes_0.dcm", "dicom_jpeg.dcm", "sm_50px.dcm"],
)
def test_pixels_of_scanned_slides_are_those_of_openslide(archive: Archive, shared_data: Path, name: str) -> None:
    """JPEG in both colour spaces, JPEG 2000 and uncompressed."""
    path = shared_data / "slides" / name
    post(archive.server, path)
    head = dcmread(path, stop_before_pixels=True)
    slides = slides_of({"pacs": archive.server.url}, None, handles=1, cache_bytes=2**26)
    assert slides is not None
    local = Slide.open(path)
    with slides.open(f"dicomweb:pacs/{head.StudyInstanceUID}/{head.SeriesInstanceUID}") as remote:
        assert (remote.level_sizes, remote.mpp) == (local.level_sizes, local.mpp)
        box = Box(0, 0, local.size_l0.width, local.size_l0.height)
        np.testing.assert_array_equal(remote.read_level(0, box), local.read_level(0, box))
    local.close()
    slides.close()


def test_the_slide_is_described(analyser: Analyser, archive: Archive) -> None:
    """As any other; its content id is the same each time."""
    info = analyser.slide(archive.slide_id)
    assert (info.width, info.height, info.vendor) == (800, 640, "dicom")
    assert info.content_id == analyser.slide(archive.slide_id).content_id


@pytest.mark.parametrize(
    "slide_id",
    ["dicomweb:other/1.2/3.4", "dicomweb:pacs/1.2/3.4", "dicomweb:pacs/../x", "dicomweb:http://127.0.0.1/1/2"],
)
def test_unknown_servers_and_series_are_unknown_slides(analyser: Analyser, slide_id: str) -> None:
    """A request names a server by the operator's name for it, never by an address."""
    with pytest.raises(UnknownSlideError):
        analyser.slide(slide_id)


def test_a_series_of_other_objects_is_no_slide(analyser: Analyser, archive: Archive, tmp_path: Path) -> None:
    """The error says what the server has."""
    made_cells(tmp_path / "cells")
    target = tmp_path / "cells.dcm"
    command = ["export", str(tmp_path / "cells"), "--format", "dicom-sr", "--out", str(target)]
    assert main([*command, "--dicom-source", str(archive.files[0]), "--to", archive.server.url]) == 0
    with pytest.raises(UnreadableSlideError, match="as a whole slide"):
        analyser.slide(f"dicomweb:pacs/{archive.study}/{dcmread(target).SeriesInstanceUID}")


def test_a_server_that_is_away_can_be_asked_again(archive: Archive, toy: ToyPipeline) -> None:
    """The answer is to try later; once it is back, the slide is read."""
    away = toy_analyser(toy, dicomweb_servers=f"pacs={archive.server.url}", threads=1)
    archive.server.stop()
    try:
        with pytest.raises(NotReadyError, match="pacs cannot be used now"):
            away.slide(archive.slide_id)
    finally:
        archive.server.start()
    assert away.slide(archive.slide_id).width == 800
    away.close()


@pytest.fixture(scope="module")
def service(
    start_server: StartServer, archive: Archive, toy: ToyPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Server:
    """The service with jobs, the slide's folder and the archive."""
    return start_server(
        slides=archive.files[0].parent,
        models=toy.models_dir,
        pipelines_dir=toy.pipelines_dir,
        jobs_dir=tmp_path_factory.mktemp("jobs") / "jobs",
        jobs_min_free_bytes=0,
        threads=1,
        dicomweb_servers=f"pacs={archive.server.url}",
    )


@pytest.mark.parametrize("where", ["folder", "dicomweb"])
def test_a_job_writes_dicom_objects(service: Server, archive: Archive, tmp_path: Path, where: str) -> None:
    """Summary, annotations and heatmaps, with the identifiers of the slide, wherever it lies."""
    slide = archive.slide_id if where == "dicomweb" else archive.files[1].name
    with Client(service.url) as client:
        job = client.submit(slide, pipeline="toy", outputs=["dicom"])
        job.wait()
        job.fetch(tmp_path)
    written = {path.name: dcmread(path) for path in (tmp_path / "dicom").iterdir()}
    assert set(written) == {"summary.dcm", "annotations.dcm", "heatmap-red.dcm"}
    base = dcmread(archive.files[0], stop_before_pixels=True)
    for item in written.values():
        assert (item.PatientID, item.StudyInstanceUID) == ("P17", archive.study)
        assert base.SOPInstanceUID in item.to_json()
    found = highdicom.ann.annread(tmp_path / "dicom" / "annotations.dcm").get_annotation_groups()
    cells = json.loads((tmp_path / "summary.json").read_text())["cells"]
    assert sum(group.number_of_annotations for group in found) == cells > 20
    command = ["export", job.id, "--url", service.url, "--format", "dicom-pm", "--out", str(tmp_path / "map.dcm")]
    assert main([*command, "--dicom-source", str(archive.files[0])]) == 0
    assert dcmread(tmp_path / "map.dcm").FloatPixelData == written["heatmap-red.dcm"].FloatPixelData


def test_problems_of_dicomweb_slides_over_http(service: Server, archive: Archive) -> None:
    """Unknown series and servers are not found; a server that is away is a reason to try later."""

    def status(slide: str) -> tuple[int, str]:
        answer = httpx.get(f"{service.url}/v1/slides/{slide}", timeout=60)
        return answer.status_code, str(answer.json().get("type", "")).rpartition(":")[2]

    unknown = f"dicomweb:pacs/{archive.study}/1.2.3"
    assert status(archive.slide_id) == (200, "")
    assert status(unknown) == (404, "unknown-slide")
    assert status("dicomweb:elsewhere/1.2/3.4") == (404, "unknown-slide")
    archive.server.stop()
    try:
        assert status(unknown) == (503, "not-ready")
    finally:
        archive.server.start()


def test_what_the_server_does_not_store_is_reported(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the address and the reason; an address without DICOMweb too."""
    made_cells(tmp_path / "cells")
    command = ["export", str(tmp_path / "cells"), "--format", "dicom-sr", "--dicom-source", str(archive.files[0])]
    assert main([*command, "--to", archive.server.url.replace("dicom-web", "nothing")]) == 2
    assert "did not store the file (status 404)" in capsys.readouterr().err
    assert main(command) == 2
    assert "--to" in capsys.readouterr().err
    assert json.loads((tmp_path / "cells" / "summary.json").read_text())["kind"] == "cells"
