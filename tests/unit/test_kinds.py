"""Kinds of pipeline: what their files say, and that a further one is a line in a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import toy_kinds
import toy_models
from conftest import REPOSITORY
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.footprint import Footprint
from slidecascade.cancellation import Control
from slidecascade.errors import PipelineSpecError
from slidecascade.geometry import Grid
from slidecascade.kinds.result import Account, RegionResult, Subject
from slidecascade.kinds.sink import MemorySink
from slidecascade.kinds.table import KINDS, Kind, table
from slidecascade.kinds.tile_result import AnyTileResult
from slidecascade.kinds.work import TileWork, core_blocks
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.spec import ClassifierSpec, Name, SegmenterSpec
from slidecascade.outputs.encoders import Drawing, Encoders
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.provenance import provenance
from slidecascade.pipelines.load import load_pipelines
from slidecascade.pipelines.spec import (
    FileKind,
    HeatmapTitle,
    Pipeline,
    PipelineSpec,
    own_classes,
    require_segmenter,
)
from slidecascade.settings import read_settings
from slidecascade.slides.tiling import Tile
from slidecascade.slides.tissue import tissue_blocks
from slidecascade.slides.view import SlideView
from slidecascade.timing import Silent


class BrightnessSpec(PipelineSpec):
    """The file of a toy kind: how bright is it?"""

    kind: Literal["brightness"]
    segmenter: Name

    @property
    def model_names(self) -> frozenset[str]:
        return frozenset({self.segmenter})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrightnessPipeline(Pipeline):
    kind: ClassVar[str] = "brightness"

    segmenter: SegmenterSpec

    @property
    def models(self) -> tuple[SegmenterSpec | ClassifierSpec, ...]:
        return (self.segmenter,)

    @property
    def thresholds(self) -> Mapping[str, float]:
        return {self.segmenter.name: 0.5}

    @property
    def heatmap_titles(self) -> tuple[HeatmapTitle, ...]:
        return ()


def assemble(spec: BrightnessSpec, models: Mapping[str, ModelPackage]) -> BrightnessPipeline:
    segmenter = require_segmenter(spec.name, spec.segmenter, models)
    return BrightnessPipeline(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        classes=own_classes(segmenter),
        segmenter=segmenter,
    )


@dataclass(frozen=True, slots=True)
class BrightnessTileResult(AnyTileResult):
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BrightnessWork(TileWork[BrightnessPipeline, BrightnessTileResult]):
    @property
    def grid(self) -> Grid:
        return self.grids[self.pipeline.segmenter.name]

    @property
    def aligned_to(self) -> int:
        return 8

    @property
    def halo_px(self) -> int:
        return 16

    def result(self, tile: Tile, view: SlideView) -> BrightnessTileResult:
        patch = self.read(view, self.grid, tile.read)
        tissue = core_blocks(tissue_blocks(patch, dark_field=False), tile)
        core = tile.core.clipped(self.needed)
        total = float(view.read(self.grid, core).sum(dtype=np.int64))
        return BrightnessTileResult(tile.index, tile.core, tissue, total, unstored_px=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness(RegionResult):
    kind: ClassVar[str] = "brightness"

    total: float

    @property
    def counts(self) -> dict[str, int]:
        return {}


class BrightnessSink(MemorySink[BrightnessPipeline, BrightnessTileResult]):
    def finish(self, subject: Subject, account: Account) -> Brightness:
        return Brightness(
            pipeline=subject.pipeline,
            coordinate_space=subject.coordinate_space,
            facts=subject.facts,
            region_l0=subject.region_l0,
            mpp=subject.mpp,
            models=subject.models,
            thresholds=subject.thresholds,
            classes=self._pipeline.classes,
            tissue=self.tissue(),
            tiles=account.tiles,
            timings_s={},
            total=sum(result.total for result in self._results),
        )


def as_json(result: Brightness, _drawing: Drawing) -> Iterator[bytes]:
    yield json.dumps({"total": result.total, "kind": provenance(result).kind}).encode()


def as_files(result: Brightness, _overview: Overview, drawing: Drawing) -> Files:
    return Files(iter(()), "brightness.json", as_json(result, drawing), 1000)


def as_native(result: Brightness) -> Iterator[bytes]:
    yield from as_json(result, Drawing())


BRIGHTNESS = Kind(
    FileKind("brightness", BrightnessSpec, assemble),
    BrightnessWork,
    BrightnessSink,
    Encoders({wire.JSON: as_json}, as_files, as_native),
    Footprint(lambda pipeline, region_l0, grids: 0, lambda result: 8),
)
FIELDS = {
    "name": "how-bright",
    "kind": "brightness",
    "title": "Brightness",
    "description": "A toy.",
    "segmenter": "toy-mask",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy_kinds.write_models(tmp_path / "models")
    return tmp_path


def png(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])


def analyser_of(folder: Path, kinds: Mapping[str, Kind], *files: dict[str, Any]) -> Analyser:
    pipelines = toy_kinds.write_pipelines(folder / "pipelines", *files)
    settings = read_settings(models_dir=folder / "models").model_copy(update={"pipelines_dir": pipelines})
    return Analyser(settings, observer=Silent(), kinds=kinds)


def test_a_further_kind_is_a_line_in_the_table(folder: Path) -> None:
    """Its file is read, its tiles are analysed, its result is encoded; no other module refers to it."""
    analyser = analyser_of(folder, table(*KINDS.values(), BRIGHTNESS), FIELDS, toy_kinds.AREAS)
    try:
        image = toy_kinds.coloured(3, 200, 150, 4)
        request = wire.parse_request({"pipeline": "how-bright", "mpp": 0.5, "tile_px": 64})
        report = analyser.analyse(request, png(image), Control())
        encoders = analyser.encoders("how-bright")
        answer = b"".join(encoders.encode(wire.JSON, report.analysis, report.overview, Drawing()))
        assert {info.name: info.kind for info in analyser.pipelines()} == {
            "how-bright": "brightness",
            "toy-areas": "areas",
        }
    finally:
        analyser.close()
    assert json.loads(answer) == {"total": float(image.sum()), "kind": "brightness"}
    assert encoders.offers == (wire.JSON, wire.ZIP)


def load(folder: Path, *files: dict[str, Any]) -> Mapping[str, Pipeline]:
    pipelines = toy_kinds.write_pipelines(folder / "pipelines", *files)
    return load_pipelines(load_repository(folder / "models"), pipelines, [kind.file for kind in KINDS.values()])


def test_pipelines_of_all_kinds_stand_side_by_side(folder: Path) -> None:
    """Each says which it is, what it thresholds and which heatmaps it has."""
    loaded = load(folder, toy_kinds.AREAS, toy_kinds.PATCHES)
    assert {name: pipeline.kind for name, pipeline in loaded.items()} == {
        "toy-areas": "areas",
        "toy-patches": "patches",
    }
    assert loaded["toy-patches"].thresholds == {"toy-dark": 0.5}
    assert [item.kind for item in loaded["toy-areas"].heatmap_titles] == ["coverage"]
    assert [end.name for end in loaded["toy-areas"].classes.ends] == ["Red", "Green"]


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        (toy_kinds.AREAS | {"kind": "volumes"}, "wrong at kind: there are cells, patches, areas"),
        (toy_kinds.AREAS | {"kind": 3}, "wrong at kind"),
        (toy_kinds.AREAS | {"segmenter": "toy-dark"}, "is not a segmenter"),
        (toy_kinds.AREAS | {"min_area_um2": -1}, "wrong at min_area_um2"),
        (toy_kinds.AREAS | {"min_area_um2": 1e9}, "min_area_um2 may be 1024 at most"),
        (toy_kinds.AREAS | {"cascade": []}, "wrong at cascade"),
        (toy_kinds.AREAS | {"heatmaps": [{"name": "a", "title": "A", "class": "Blue"}]}, "names the class 'Blue'"),
        (toy_kinds.PATCHES | {"classifier": "toy-mask"}, "is not a classifier"),
        (toy_kinds.PATCHES | {"patch": {"stride_px": 12}}, "wrong at patch.stride_px"),
        (toy_kinds.PATCHES | {"outlines": ["Bright"]}, "names the class 'Bright'"),
        (toy_kinds.PATCHES | {"threshold": 2}, "wrong at threshold"),
        (
            {"name": "toy", "title": "T", "description": "D", "segmenter": "toy-mask", "heatmaps": []},
            "wrong at heatmaps",
        ),
        (
            {
                "name": "toy",
                "title": "T",
                "description": "D",
                "segmenter": "toy-mask",
                "heatmaps": [{"name": "a", "title": "A", "kind": "density", "classes": ["Red"]}],
            },
            "the head 'classes' of 'toy-mask' finds no objects",
        ),
    ],
)
def test_a_wrong_file_is_refused(folder: Path, fields: dict[str, Any], reported: str) -> None:
    """The message says what is wrong, by the field's place in the file."""
    with pytest.raises(PipelineSpecError, match=reported):
        load(folder, fields)


def test_a_patch_is_the_models_own_unless_stated(folder: Path) -> None:
    """Context and pixel size of the classifier's package."""
    loaded = load(folder, toy_kinds.PATCHES | {"patch": {"stride_px": 32}})["toy-patches"]
    assert (loaded.context_px, loaded.mpp, loaded.stride_px) == (44, 0.5, 32)  # type: ignore[attr-defined]


def test_the_pipelines_of_the_page_are_accepted(folder: Path) -> None:
    """Those of patches and of areas, once their models exist."""
    page = (REPOSITORY / "docs" / "pipelines.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    chosen = [fields for fields in map(yaml.safe_load, blocks) if "kind" in fields]
    glomerulus, tumor = ([{"name": name, "color": [0, 0, 0]}] for name in ("Glomerulus", "Tumour"))
    outputs = [toy_models.maps_fields("foreground")]
    mask = toy_models.segmenter_fields(
        "glomeruli-unet", mpp=2.0, head="semantic", classes=glomerulus, outputs=outputs, options={}
    )
    toy_models.write_package(folder / "models", mask, toy_models.color_mask_segmenter(1))
    patch = toy_models.classifier_fields("tumor-inception", 299, head="sigmoid", classes=tumor)
    toy_models.write_package(folder / "models", patch, toy_models.brightness_classifier(299))
    assert {pipeline.kind for pipeline in load(folder, *chosen).values()} == {"patches", "areas"}
