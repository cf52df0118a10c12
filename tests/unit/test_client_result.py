"""What a caller gets out of an analysed region."""

from __future__ import annotations

import asyncio
import io
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, assert_type

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_analysis import CLASSES, make_analysis
from scripted_server import Answer, Ask, FakeTime, both_clients, scripted
from slidecascade.outputs import archive
from slidecascade.outputs.cells import encoders
from slidecascade.outputs.encoders import Drawing
from slidecascade.wire import ZIP, ModelInfo, RegionBox
from slidecascade_client import AsyncClient, Cell, Client, RegionResult, UnexpectedAnswerError
from slidecascade_client.reply import Reply
from slidecascade_client.spool import MEMORY_BYTES

ANALYSIS = make_analysis(50)
FILES = {
    *("summary.json", "heatmaps/steatosis.png", "heatmaps/immune.png", "overlay.png", "cells.geojson"),
    *("figures/steatosis.png", "figures/immune.png", "figures/overlay.png"),
}


@cache
def _archive() -> bytes:
    """The zip of the service's own encoder."""
    region = ANALYSIS.region_l0
    image = np.full((region.height, region.width, 3), 230, np.uint8)
    return b"".join(archive.encode(encoders.files(ANALYSIS, lambda max_side_px: (image, 1.0), Drawing())))


def _zip_of(changes: Mapping[str, bytes | None]) -> bytes:
    """The archive with files added, replaced, or (None) left out."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_archive())) as source, zipfile.ZipFile(packed, "w") as target:
        contents: dict[str, bytes | None] = {name: source.read(name) for name in source.namelist()}
        for name, content in {**contents, **changes}.items():
            if content is not None:
                target.writestr(name, content)
    return packed.getvalue()


def _result(ask: Ask, content: bytes, media_type: str = ZIP, **answer: Any) -> RegionResult:
    with scripted(Answer(200, content, media_type, **answer)) as server:
        result = ask(server.url, "analyze_region", b"image", pipeline="nash", time=FakeTime())
    assert isinstance(result, RegionResult)
    return result


@both_clients
def test_a_result_holds_all_answers(ask: Ask) -> None:
    """Counts, summary, cells, heatmaps and overlay come of one call."""
    result = _result(ask, _archive(), headers={"X-Request-Id": "abc"})
    assert result.request_id == "abc"
    assert result.counts == ANALYSIS.counts
    assert result.summary.region == RegionBox(x=1000, y=2000, width=800, height=600)
    assert len(result.cells) == result.summary.cells == len(result.geojson["features"]) == 50
    assert set(result.heatmaps) == {"steatosis", "immune"}
    for picture in (*result.heatmaps.values(), result.overlay):
        assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    assert set(result.files) == FILES


@both_clients
def test_a_result_states_its_warnings(ask: Ask) -> None:
    with zipfile.ZipFile(io.BytesIO(_archive())) as source:
        summary = json.loads(source.read("summary.json"))
    summary["warnings"] = [{"code": "ink", "message": "Ink covers the tissue."}]
    result = _result(ask, _zip_of({"summary.json": json.dumps(summary).encode()}))
    assert [(warning.code, warning.message) for warning in result.warnings] == [("ink", "Ink covers the tissue.")]


@both_clients
def test_cells_say_what_the_service_found(ask: Ask) -> None:
    """Outline, class, colour, score, area and every probability of every stage that saw the cell."""
    cells = _result(ask, _archive()).cells
    instances = ANALYSIS.instances
    for index, cell in enumerate(cells):
        cell_class = CLASSES[ANALYSIS.class_index[index]]
        outline = instances.vertices[instances.offsets[index] : instances.offsets[index + 1]]
        assert (cell.class_name, cell.color) == (cell_class.name, cell_class.color)
        assert cell.polygon.shape == outline.shape
        np.testing.assert_allclose(cell.polygon, outline, atol=0.005001)
        assert cell.score == pytest.approx(instances.scores[index], abs=1e-4)
        assert cell.area_um2 == pytest.approx(instances.areas[index] * 0.25, abs=0.01)
        for model, matrix in zip(ANALYSIS.models[1:], instances.probabilities, strict=True):
            seen = np.isfinite(matrix[index]).all()
            expected = dict(zip(model.classes, matrix[index].tolist(), strict=True)) if seen else None
            assert cell.probabilities.get(model.name) == pytest.approx(expected, abs=1e-4)
    assert len({cell.id for cell in cells}) == 50


@both_clients
def test_cells_are_a_sequence(ask: Ask) -> None:
    """Indexing, slicing and length work as for a list."""
    cells = _result(ask, _archive()).cells
    assert isinstance(cells[0], Cell)
    assert [cell.id for cell in cells[-3:]] == [cells[47].id, cells[48].id, cells[49].id]
    assert repr(cells[:2]) == "<2 cells>"
    with pytest.raises(IndexError):
        cells[50]
    with pytest.raises(AttributeError):
        cells[0].score = 1.0  # type: ignore[misc]  # the point of the test


@both_clients
def test_save_writes_the_files_and_nothing_else(ask: Ask, tmp_path: Path) -> None:
    """The folder is made, older files are replaced, no partial file stays; a second save is the same."""
    result = _result(ask, _archive())
    folder = tmp_path / "new" / "out"
    (folder / "heatmaps").mkdir(parents=True)
    (folder / "summary.json").write_text("old")
    assert result.save(folder) == folder
    assert result.save(str(folder)) == folder
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == FILES
    with zipfile.ZipFile(io.BytesIO(_archive())) as source:
        assert all((folder / name).read_bytes() == source.read(name) for name in FILES)


@both_clients
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_saved_files_have_ordinary_permissions(ask: Ask, tmp_path: Path) -> None:
    """A colleague may read them, as any file written by the user's programs."""
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    saved = _result(ask, _archive()).save(tmp_path) / "cells.geojson"
    assert saved.stat().st_mode == ordinary.stat().st_mode


@both_clients
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "..", "heatmaps/..", "a//b", "a\\..\\evil", "C:evil", "./a"]
)
def test_names_that_leave_the_folder_are_refused(ask: Ask, name: str, tmp_path: Path) -> None:
    """An archive cannot write outside the folder of `save`: it is refused as a whole."""
    with pytest.raises(UnexpectedAnswerError, match="outside its folder"):
        _result(ask, _zip_of({name: b"evil"})).save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@both_clients
@pytest.mark.parametrize("name", ["summary.json", "cells.geojson", "overlay.png"])
def test_a_missing_file_is_reported(ask: Ask, name: str) -> None:
    """An incomplete archive is not a result."""
    with pytest.raises(UnexpectedAnswerError, match=f"lacks {name}"):
        _result(ask, _zip_of({name: None}))


@both_clients
@pytest.mark.parametrize(
    ("changes", "attribute"),
    [
        ({"summary.json": b"{}"}, "counts"),
        ({"summary.json": b"\xff"}, "summary"),
        ({"cells.geojson": b""}, "cells"),
        ({"cells.geojson": b"[]"}, "geojson"),
        ({"cells.geojson": b'{"features": null}'}, "cells"),
    ],
)
def test_a_damaged_file_is_reported_when_it_is_read(ask: Ask, changes: dict[str, bytes], attribute: str) -> None:
    """The other files stay usable."""
    result = _result(ask, _zip_of(changes))
    assert result.overlay.startswith(b"\x89PNG")
    with pytest.raises(UnexpectedAnswerError, match="damaged"):
        getattr(result, attribute)


@both_clients
@pytest.mark.parametrize(
    ("content", "media_type"), [(b"<html>", "text/html"), (b"{}", "application/json"), (b"", "")]
)
def test_another_kind_of_answer_is_unexpected(ask: Ask, content: bytes, media_type: str) -> None:
    """A page with status 200 is detected by its media type."""
    with pytest.raises(UnexpectedAnswerError, match="instead of application/zip"):
        _result(ask, content, media_type)


@given(data=st.data())
def test_no_damage_to_the_archive_breaks_the_client(data: st.DataObject) -> None:
    """Any bytes flipped or cut give a result or an UnexpectedAnswerError, nothing else."""
    content = bytearray(_archive())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(max(0, len(content) - 700), len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2, 0]))
    try:
        with _local_result(bytes(content[:cut])) as result:
            for _ in (result.summary, result.cells, result.heatmaps, result.overlay):
                pass
    except UnexpectedAnswerError:
        pass


def _local_result(content: bytes) -> RegionResult:
    return RegionResult(Reply(200, httpx.Headers({"content-type": ZIP}), io.BytesIO(content), "r"))


@both_clients
def test_a_large_archive_stays_out_of_memory(ask: Ask, tmp_path: Path) -> None:
    """What exceeds the limit lies in a temporary file, and reads the same."""
    noise = np.random.default_rng(0).bytes(3 * MEMORY_BYTES)
    result = _result(ask, _zip_of({"heatmaps/noise.png": noise}), pieces=7)
    body = result._reply.body
    assert getattr(body, "_rolled") is True  # noqa: B009  # the standard library's own flag, not typed
    assert result.heatmaps["noise"] == noise
    assert (result.save(tmp_path) / "heatmaps" / "noise.png").read_bytes() == noise


@both_clients
def test_a_forgotten_result_leaves_nothing_open(ask: Ask) -> None:
    """Without close, the temporary file goes with the object, and without a warning."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = _result(ask, _zip_of({"heatmaps/noise.png": bytes(2 * MEMORY_BYTES)}))
        body = result._reply.body
        del result
        assert body.closed
    assert not [warning for warning in seen if issubclass(warning.category, ResourceWarning)]


@both_clients
def test_a_closed_result_keeps_what_was_read(ask: Ask) -> None:
    """The end of a with block deletes the file, not the values."""
    with _result(ask, _archive()) as result:
        counts = result.counts
    result.close()
    assert result.counts == counts
    with pytest.raises(ValueError, match="closed"):
        result.overlay  # noqa: B018  # reading is the point


@both_clients
def test_a_result_without_cells_is_a_result(ask: Ask) -> None:
    """An empty region has zero cells, not an error."""
    empty = make_analysis(0)
    document = json.dumps({"type": "FeatureCollection", "features": []}).encode()
    result = _result(ask, _zip_of({"cells.geojson": document}))
    assert len(empty.instances) == len(result.cells) == 0
    assert list(result.cells) == []


def test_both_clients_are_typed_alike() -> None:
    """A type checker knows what each method gives."""

    def sync(client: Client) -> None:
        assert_type(client.analyze_region(b"", pipeline="nash"), RegionResult)
        assert_type(client.model("nuclei"), ModelInfo)
        assert_type(client.ready(), bool)

    async def later(client: AsyncClient) -> None:
        assert_type(await client.analyze_region(b"", pipeline="nash"), RegionResult)
        assert_type(await client.model("nuclei"), ModelInfo)
        assert_type(await client.ready(), bool)

    assert callable(sync)
    assert asyncio.iscoroutinefunction(later)
