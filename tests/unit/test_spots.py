"""The pipeline option `spots`: found again where they were synthesized, counted per cell, the same in any tile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import toy_models
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells import arrow
from slidecascade.cells.spots import find_spots
from slidecascade.cells.tile_result import TileResult
from slidecascade.errors import PipelineSpecError
from slidecascade.geometry import Box
from slidecascade.outputs.cells import geojson, geoparquet
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_render.fluorescence.dataset import SynthesisOptions, Synthesized, Synthesizer, files_of
from slidecascade_render.fluorescence.masks import MaskOptions
from slidecascade_render.fluorescence.optics import OpticsOptions
from slidecascade_render.fluorescence.spots import SpotOptions

MPP = 0.5
SIGMA_PX = 1.3


def synthesized(seed: int, *, bleed: float = 0.0, cells: int = 40) -> Synthesized:
    """Cells of 36 px with some five spots each at a signal-to-noise ratio of 5."""
    options = SynthesisOptions(
        images=1,
        seed=seed,
        height_px=384,
        width_px=384,
        mpp=MPP,
        masks=MaskOptions(cells=cells, diameter_px=36, touching=0, overlap=0),
        optics=OpticsOptions(bleed=bleed),
        spots=SpotOptions(mean=5, snr=5, sigma_px=SIGMA_PX),
    )
    return Synthesizer.of(options).image(0)


@pytest.mark.parametrize("seed", range(4))
def test_synthesized_spots_are_found_again(seed: int) -> None:
    """F1 of at least 0.95 at a signal-to-noise ratio of 5, and places to a fraction of a pixel."""
    made = synthesized(seed)
    found = find_spots(made.image[..., 1], sigma_px=SIGMA_PX, snr=5.0)
    gaps = np.hypot(*(found.positions[:, None] - made.spots.positions[None]).transpose(2, 0, 1))
    pairs = int((gaps.min(axis=0) < 2).sum())
    f1 = 2 * pairs / (len(found.positions) + len(made.spots.positions))
    assert len(made.spots.positions) > 100
    assert f1 >= 0.95
    nearest = gaps.min(axis=0)
    assert np.median(nearest[nearest < 2]) < 0.35


def test_an_image_of_noise_has_no_spots() -> None:
    noise = np.random.default_rng(0).normal(1000, 30, (400, 400)).astype(np.uint16)
    assert len(find_spots(noise, sigma_px=SIGMA_PX, snr=5.0).positions) == 0


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Analyser:
    """A pipeline whose cells are what is bright in the nuclear channel, with spots."""
    folder = tmp_path_factory.mktemp("spots")
    image = toy_models.image_fields("height", "width") | {
        "shape": ["batch", "height", "width", 1], "channels": ["nuclear"], "multiple_of": 8,
    }  # fmt: skip
    fields = toy_models.segmenter_fields(
        name="bright", inputs=[image], halo_px=48, options={"foreground": 0.15, "seed": 0.15, "min_area_um2": 4.0}
    )
    toy_models.write_package(folder / "models", fields, toy_models.brightness_segmenter())
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "bright.yaml").write_text(yaml.safe_dump(pipeline()), encoding="utf-8")
    settings = read_settings(models_dir=folder / "models")
    settings = settings.model_copy(update={"pipelines_dir": folder / "pipelines"})
    return Analyser(settings, observer=Silent())


def pipeline(**changes: object) -> dict[str, object]:
    return {
        "name": "bright",
        "title": "Bright",
        "description": "Bright cells and their spots.",
        "segmenter": "bright",
        "heatmaps": [{"name": "density", "title": "Nuclei", "kind": "density", "classes": ["Nucleus"]}],
        "spots": {"channel": "spots", "sigma_um": SIGMA_PX * MPP},
    } | changes


def test_spots_are_counted_per_cell(analyser: Analyser) -> None:
    """Counts and intensities of each cell are measurements in GeoJSON and columns in Parquet."""
    made = synthesized(7)
    data = files_of(made, MPP)[f"{made.stem}.tif"]
    analysis = analyser.analyse(wire.parse_request({"pipeline": "bright", "mpp": MPP}), data, Control()).cells
    counts, heights = analysis.instances.measures
    x, y = np.floor(analysis.instances.centroids).astype(int).T
    cell = made.labels[y, x]
    wanted = made.spots.counts(int(made.labels.max()))
    assert len(cell) == len(np.unique(cell)) == made.labels.max() > 20
    assert np.abs(counts - wanted[cell - 1]).sum() <= 0.08 * wanted.sum()
    assert (heights[counts > 0] > 0).all()
    features = json.loads(b"".join(geojson.encode(analysis)))["features"]
    measured = [item["properties"]["measurements"] for item in features]
    assert [item["Spots"] for item in measured] == counts.tolist()
    assert [item["Spot intensity"] for item in measured] == pytest.approx(heights.tolist(), abs=1e-3)
    table = geoparquet.table(analysis)
    assert table["Spots"].to_pylist() == counts.tolist()
    again, _ = geoparquet.cells_of(table, analysis)
    assert np.array_equal(again.measures[1], heights)


def test_a_cell_has_the_same_spots_in_every_tile_and_region(analyser: Analyser) -> None:
    """Small tiles and a part of the image change neither counts nor intensities."""
    data = files_of(synthesized(8), MPP)["synthetic-8-00000.tif"]

    def measures(**more: object) -> dict[tuple[float, ...], tuple[float, ...]]:
        request = wire.parse_request({"pipeline": "bright", "mpp": MPP, **more})
        cells = analyser.analyse(request, data, Control()).cells.instances
        rows = zip(cells.centroids.tolist(), *(column.tolist() for column in cells.measures), strict=True)
        return {tuple(centre): tuple(values) for centre, *values in rows}

    whole = measures()
    assert measures(tile_px=64) == whole
    part = measures(region={"x": 100, "y": 60, "width": 150, "height": 200})
    assert len(part) > 3
    assert part.items() <= whole.items()


def test_measures_pass_through_arrow(analyser: Analyser) -> None:
    """Workers hand tiles on with what was measured."""
    data = files_of(synthesized(9, cells=8), MPP)["synthetic-9-00000.tif"]
    cells = analyser.analyse(
        wire.parse_request({"pipeline": "bright", "mpp": MPP}), data, Control()
    ).cells.instances
    mask = np.ones(len(cells), np.bool_)
    result = TileResult(0, Box(0, 0, 384, 384), np.ones((1, 1), np.bool_), cells, mask, mask, unstored_px=0.0)
    found = arrow.decode(arrow.encode(result)).cells.measures
    assert [column.tolist() for column in found] == [column.tolist() for column in cells.measures]


def test_spots_in_the_segmenters_own_channel_are_rejected(analyser: Analyser, tmp_path: Path) -> None:
    from slidecascade.models.repository import load_repository
    from slidecascade.pipelines.cells import FILE
    from slidecascade.pipelines.load import load_pipelines

    (tmp_path / "bright.yaml").write_text(yaml.safe_dump(pipeline(spots={"channel": "nuclear"})), encoding="utf-8")
    packages = load_repository(analyser.package("bright").onnx_path.parents[2])
    with pytest.raises(PipelineSpecError, match="is one of the segmenter's"):
        load_pipelines(packages, tmp_path, (FILE,))
