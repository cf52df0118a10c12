"""Channels by meaning: stacks as files, their intensities, and how a request names them."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import toy_models
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser, Report
from slidecascade.cancellation import Control
from slidecascade.commands.arguments import channel_of
from slidecascade.errors import InvalidRequestError, PipelineSpecError, UndecodableImageError, UnknownChannelError
from slidecascade.geometry import Box
from slidecascade.models.tensors import InputSpec
from slidecascade.outputs.provenance import facts
from slidecascade.settings import Settings
from slidecascade.slides.channels import RGB, Intensity, as_input, composite, measure, resolve, scaled
from slidecascade.slides.stack import stack_in
from slidecascade.slides.tissue import signal_blocks
from slidecascade.slides.upload import decode_image, open_image
from slidecascade.timing import Silent
from toy_channels import GREY, NAMES, field_of, tiff, write_pipeline, write_stack

COUNTS = np.random.default_rng(5).integers(0, 4096, (3, 70, 90), np.uint16)


STORED = {
    "pages": (tiff(COUNTS, **GREY), COUNTS),
    "pages of 8 bits": (tiff(COUNTS.astype(np.uint8), **GREY), COUNTS.astype(np.uint8)),
    "pages in big-endian order": (tiff(COUNTS, byteorder=">", **GREY), COUNTS),
    "BigTIFF in strips": (tiff(COUNTS, bigtiff=True, rowsperstrip=16, **GREY), COUNTS),
    "deflated tiles": (tiff(COUNTS, tile=(32, 48), compression="zlib", **GREY), COUNTS),
    "deflated strips": (tiff(COUNTS, rowsperstrip=13, compression="zlib", **GREY), COUNTS),
    "an ImageJ stack": (tiff(COUNTS, imagej=True, metadata={"axes": "CYX"}), COUNTS),
    "samples of a pixel": (tiff(COUNTS.transpose(1, 2, 0), planarconfig="contig", **GREY), COUNTS),
    "deflated samples": (
        tiff(COUNTS.transpose(1, 2, 0), planarconfig="contig", compression="zlib", tile=(32, 32), **GREY),
        COUNTS,
    ),
    "planes": (tiff(COUNTS, planarconfig="separate", rowsperstrip=9, **GREY), COUNTS),
    "two channels": (tiff(COUNTS[:2], **GREY), COUNTS[:2]),
    "eight channels": (tiff(np.tile(COUNTS, (3, 1, 1))[:8], **GREY), np.tile(COUNTS, (3, 1, 1))[:8]),
    "OME-TIFF": (tiff(COUNTS, ome=True, metadata={"axes": "CYX", "Channel": {"Name": NAMES}}), COUNTS),
}


@pytest.mark.parametrize("how", sorted(STORED))
def test_a_stack_has_the_counts_that_were_written(how: str) -> None:
    """Of every channel and any part, whatever way the channels are stored in."""
    data, counts = STORED[how]
    source = open_image(data, max_px=10**6).decode()
    assert source.channels == (
        tuple(NAMES) if how == "OME-TIFF" else tuple(f"channel-{i}" for i in range(len(counts)))
    )
    for box in (Box(0, 0, 90, 70), Box(31, 12, 40, 33), Box(89, 69, 1, 1)):
        part = counts[:, box.y : box.bottom, box.x : box.right].transpose(1, 2, 0)
        np.testing.assert_array_equal(source.read_channels(0, box, range(len(counts))), part)
        np.testing.assert_array_equal(source.read_channels(0, box, [1]), part[..., 1:2])
    assert source.read_level(0, Box(0, 0, 90, 70)).shape == (70, 90, 3)


def test_lzw_with_differences_is_read() -> None:
    """As Pillow writes a stack of pages."""
    from PIL import Image

    pages = [Image.fromarray(page) for page in COUNTS.astype(np.uint8)]
    stream = io.BytesIO()
    pages[0].save(
        stream, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw", tiffinfo={317: 2}
    )
    source = open_image(stream.getvalue(), max_px=10**6).decode()
    found = source.read_channels(0, Box(0, 0, 90, 70), [0, 1, 2])
    np.testing.assert_array_equal(found.transpose(2, 0, 1), COUNTS.astype(np.uint8))


FLOATS = COUNTS.astype(np.float32)
FLOATS[0, 3, 4] = np.nan
REFUSED = {
    "40 channels": (tiff(np.zeros((40, 20, 20), np.uint16), **GREY), "40 channels, at most 8"),
    "points in time": (tiff(COUNTS, imagej=True, metadata={"axes": "TYX"}), "3 points in time: send one"),
    "OME time": (tiff(COUNTS, ome=True, metadata={"axes": "TYX", "Channel": {"Name": ["a"]}}), "points in time"),
    "depth": (tiff(COUNTS, imagej=True, metadata={"axes": "ZYX"}), "3 planes in depth"),
    "NaN": (tiff(FLOATS, **GREY), "NaN and negative values"),
    "packed 12 bits": (
        tiff(COUNTS, byteorder="<", **GREY).replace(
            struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0)
        ),
        "have 12 bits, and 8 or 16 bits are read",
    ),
    "32 bits": (tiff(COUNTS.astype(np.uint32), **GREY), "8 or 16 bits"),
    "colour pages": (tiff(np.zeros((2, 20, 20, 3), np.uint8), photometric="rgb"), "one size: send one page"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_a_stack_that_is_not_read_is_refused_in_a_sentence(what: str) -> None:
    data, says = REFUSED[what]
    with pytest.raises(UndecodableImageError, match=says):
        open_image(data, max_px=10**6).decode()


def test_pages_of_other_sizes_are_refused() -> None:
    """The second page of a stack of three is smaller."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for size in (40, 40, 36):
            file.write(np.zeros((size, size), np.uint16), photometric="minisblack", metadata=None)
    with pytest.raises(UndecodableImageError, match="differ in size or type"):
        open_image(stream.getvalue(), max_px=10**6)


def test_a_second_image_is_refused_and_a_smaller_copy_is_not() -> None:
    """A copy has the proportions of the first image, or states that it is one."""

    def pages(size: tuple[int, int], **options: Any) -> bytes:
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as file:
            file.write(np.zeros((40, 60), np.uint16), photometric="minisblack", metadata=None)
            file.write(np.zeros(size, np.uint16), photometric="minisblack", metadata=None, **options)
        return stream.getvalue()

    with pytest.raises(UndecodableImageError, match="differ in size"):
        stack_in(pages((40, 50)))
    assert stack_in(pages((13, 20))) is None
    assert stack_in(pages((40, 50), subfiletype=1)) is None


def test_images_in_colour_and_grey_are_no_stacks() -> None:
    """They stay what they were: red, green and blue of 8 bits."""
    for pixels in (np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint16), np.zeros((20, 30), np.uint8)):
        data = tiff(pixels)
        assert stack_in(data) is None
        assert decode_image(data, max_px=10**6).channels == RGB


def test_percentiles_become_the_scale_and_noise_stays_dark() -> None:
    """The 1st and the 99.8th; a channel that is empty, all zero or saturated is not spread."""
    rng = np.random.default_rng(1)
    signal = rng.integers(100, 3000, (64, 64), np.uint16)
    noise = rng.integers(90, 110, (64, 64), np.uint16)
    squares = [np.dstack([signal, noise, np.zeros_like(noise), np.full_like(noise, 65535)])]
    found = measure(["a", "b", "c", "d"], squares)
    assert found[0].low == pytest.approx(np.percentile(signal, 1), abs=2)
    assert found[0].high == pytest.approx(np.percentile(signal, 99.8), abs=5)
    assert found[1].high - found[1].low == 255
    assert [(item.low, item.high) for item in found[2:]] == [(0, 255), (65535, 65790)]
    shown = scaled(squares[0], found)
    assert shown[..., 0].min() == 0
    assert shown[..., 0].max() == 65535
    assert shown[..., 1].max() < 6000
    assert not shown[..., 2:].any()


def test_a_network_may_state_other_percentiles() -> None:
    """By which its channels are scaled; those of the sample's default stay as they are."""
    signal = np.random.default_rng(1).integers(100, 3000, (64, 64, 1), np.uint16)
    (usual,) = measure(["a"], [signal])
    for percentiles in ((0.0, 100.0), (1.0, 99.0), (5.0, 99.9)):
        found = usual.between(percentiles)
        assert found.low == pytest.approx(np.percentile(signal, percentiles[0]), abs=5)
        assert found.high == pytest.approx(np.percentile(signal, percentiles[1]), abs=5)
    assert usual.between((1.0, 99.8)) == usual


@pytest.mark.parametrize("percentiles", [[99, 1], [1, 101], [0.15, 99], [1]])
def test_percentiles_that_cannot_be_used_are_rejected(percentiles: list[float]) -> None:
    fields = {"name": "image", "dtype": "uint8", "layout": "NHWC", "shape": ["batch", "height", "width", 1]}
    with pytest.raises(ValidationError, match="percentiles"):
        InputSpec.model_validate(fields | {"channels": ["nuclear"], "percentiles": percentiles})


@pytest.mark.parametrize("deviation", [4, 15, 120])
def test_an_empty_field_has_no_tissue_and_a_dim_cell_has(deviation: float) -> None:
    """Camera noise on black is no signal, however strong it is; a disc of twice the noise and 20 counts is."""
    rng = np.random.default_rng(2)
    counts = np.clip(rng.normal(700, deviation, (96, 96, 1)), 0, 65535).astype(np.uint16)
    found = measure(["a"], [counts])
    signal = [item.scaled_signal for item in found]
    assert not signal_blocks(scaled(counts, found), signal).any()
    disc = np.zeros((96, 96), np.uint8)
    cv2.circle(disc, (48, 48), 10, 1, -1)
    counts[disc > 0] += np.uint16(max(2 * deviation, 20))
    blocks = signal_blocks(scaled(counts, found), signal)
    assert blocks[4:8, 4:8].all()
    assert not blocks[0].any()


def levels(*names: str) -> tuple[Intensity, ...]:
    return tuple(Intensity(name, 0, 100 * (1 + index)) for index, name in enumerate(names))


@pytest.mark.parametrize(
    ("wanted", "asked", "names", "found"),
    [
        (["nuclear"], {"nuclear": 1}, ["a", "b"], [1]),
        (["nuclear"], {"nuclear": "dapi"}, ["CD45", "DAPI"], [1]),
        (["nuclear", "membrane"], {}, ["Membrane", "Nuclear"], [1, 0]),
        (["nuclear"], {}, ["channel-0"], [0]),
        (["nuclear"], {}, list(RGB), [2]),
        (["nuclear", "membrane"], {"nuclear": 0, "membrane": 0}, ["a"], [0, 0]),
    ],
)
def test_channels_are_found_by_index_name_or_signal(
    wanted: list[str], asked: dict[str, int | str], names: list[str], found: list[int]
) -> None:
    assert [use.index for use in resolve(wanted, asked, levels(*names), dark_field=True)] == found


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"nuclear": 2}, ["a", "b"]),
        ({"nuclear": "c"}, ["a", "b"]),
        ({}, ["a", "b"]),
        ({"nuclear": -1}, ["a", "b"]),
    ],
)
def test_a_channel_that_is_not_there_is_answered_with_those_that_are(
    asked: dict[str, int | str], names: list[str]
) -> None:
    with pytest.raises(UnknownChannelError, match=r"it has 0 \(a\), 1 \(b\)"):
        resolve(["nuclear"], asked, levels(*names), dark_field=True)


def test_a_meaning_that_no_network_takes_is_invalid() -> None:
    with pytest.raises(InvalidRequestError, match="takes no channel 'membrane'; it takes nuclear"):
        resolve(["nuclear"], {"membrane": 0}, levels("a"), dark_field=True)


def test_networks_are_given_their_own_type_and_layout() -> None:
    images = np.array([0, 257, 65535], np.uint16).reshape(1, 1, 3, 1)
    assert as_input(images, dtype="uint8", layout="NHWC").ravel().tolist() == [0, 1, 255]
    floats = as_input(images, dtype="float32", layout="NCHW")
    assert floats.dtype == np.float32
    assert (floats.shape, float(floats.max())) == ((1, 1, 1, 3), 1.0)
    assert as_input(images, dtype="uint16", layout="NHWC") is images


def test_a_picture_shows_channels_in_their_colours() -> None:
    """The first in blue, the second in green; both where both are; one alone is grey."""
    counts = np.zeros((1, 3, 2), np.uint8)
    counts[0, 0, 0] = counts[0, 1, 1] = counts[0, 2] = 100
    blue, green, both = composite(counts, levels("a", "b"))[0].astype(int)
    assert blue[2] > 200
    assert blue[0] == 0
    assert green[1] > 80
    assert green[1] > green[2]
    assert (both >= np.maximum(blue, green) - 1).all()
    assert len(set(composite(counts[..., :1], levels("a"))[0, 0].tolist())) == 1


def test_the_command_line_names_channels() -> None:
    assert [channel_of("nuclear=0"), channel_of("membrane=CD45")] == [("nuclear", 0), ("membrane", "CD45")]


@pytest.fixture
def analyser(tmp_path: Path) -> Iterator[Analyser]:
    write_pipeline(tmp_path, "toy-nuclear", ["nuclear"])
    write_pipeline(tmp_path, "toy-both", ["nuclear", "membrane"])
    write_pipeline(tmp_path, "toy-wide", ["nuclear"], image={"percentiles": [0, 100]})
    (tmp_path / "slides").mkdir()
    write_stack(tmp_path / "slides" / "stack.ome.tiff", field_of(3))
    made = Analyser(
        Settings(
            models_dir=tmp_path / "models",
            pipelines_dir=tmp_path / "pipelines",
            slide_roots=(tmp_path / "slides",),
            threads=2,
        ),
        observer=Silent(),
    )
    yield made
    made.close()


def analysed(analyser: Analyser, image: bytes | None = None, **fields: Any) -> Report:
    source = {"mpp": 0.5} if image is not None else {"slide": "stack.ome.tiff"}
    request = wire.parse_request({"pipeline": "toy-nuclear"} | source | fields)
    return analyser.analyse(request, image, Control(), overview_side_px=256)


def test_a_slide_lists_its_channels_and_a_request_names_one(analyser: Analyser) -> None:
    """By index and by name; the answer states which was used, and how it was scaled."""
    assert analyser.slides().slides == (wire.SlideRef(id="stack.ome.tiff"),)
    info = analyser.slide("stack.ome.tiff")
    assert (info.channels, info.mpp) == (tuple(NAMES), 0.5)
    by_name = analysed(analyser, channels={"nuclear": "dapi"})
    by_index = analysed(analyser, channels={"nuclear": 0})
    other = analysed(analyser, channels={"nuclear": 2})
    assert 45 < len(by_name.cells.instances) <= 60
    assert 15 < len(other.cells.instances) <= 25
    np.testing.assert_array_equal(by_name.cells.instances.vertices, by_index.cells.instances.vertices)
    used = facts(by_name.analysis)
    assert used.field == "dark"
    use = used.channels["nuclear"]
    assert (use.index, use.name) == (0, "DAPI")
    assert 140 < use.low < 210
    assert 1600 < use.high < 1800
    picture, _ = by_name.overview(256)
    assert picture.shape[2] == 3
    assert picture.max() > 150


def test_a_models_percentiles_scale_what_it_is_given(analyser: Analyser) -> None:
    """Its model.yaml states them; the answer records the counts."""
    usual = facts(analysed(analyser, channels={"nuclear": 0}).analysis).channels["nuclear"]
    wide = facts(analysed(analyser, pipeline="toy-wide", channels={"nuclear": 0}).analysis).channels["nuclear"]
    counts = field_of(3)[0]
    assert wide.low == counts.min()
    assert wide.high == pytest.approx(counts.max(), abs=40)
    assert wide.low < usual.low


def test_an_empty_channel_has_neither_cells_nor_tissue(analyser: Analyser) -> None:
    found = analysed(analyser, channels={"nuclear": "CD45"})
    assert [item.code for item in found.analysis.warnings] == ["flat-channel", "nothing-analysed"]
    assert len(found.cells.instances) == 0
    assert not found.analysis.tissue.mask.any()


@pytest.mark.parametrize("channels", [{}, {"nuclear": "CD3"}, {"nuclear": 7}])
def test_a_slide_without_the_channel_says_which_it_has(analyser: Analyser, channels: dict[str, Any]) -> None:
    with pytest.raises(UnknownChannelError, match=r"0 \(DAPI\), 1 \(CD45\), 2 \(Ki67\)"):
        analysed(analyser, channels=channels)


def test_two_channels_are_given_in_the_order_of_the_network(analyser: Analyser) -> None:
    """Their mean reaches the threshold in the nuclei of both kinds, which are half as bright."""
    both = analysed(analyser, pipeline="toy-both", channels={"nuclear": 0, "membrane": "Ki67"})
    assert len(both.cells.instances) > 60


def test_an_upload_is_analysed_as_the_slide_is(analyser: Analyser) -> None:
    """The same cells of the same counts, in 16 bits or with the channels last."""
    counts = field_of(3)
    slide = analysed(analyser, channels={"nuclear": 0}).cells.instances
    for data in (tiff(counts, **GREY), tiff(counts.transpose(1, 2, 0), planarconfig="contig", **GREY)):
        found = analysed(analyser, data, channels={"nuclear": 0}).cells.instances
        np.testing.assert_array_equal(found.vertices, slide.vertices)


@settings(max_examples=10, deadline=None)
@given(
    x=st.integers(0, 300), y=st.integers(0, 300), side=st.integers(60, 200), tile_px=st.none() | st.integers(64,
    200), mpp=st.sampled_from([0.5, 0.31]),
)  # fmt: skip
def test_a_region_has_the_cells_of_the_slide(
    shared_stack: Analyser, x: int, y: int, side: int, tile_px: int | None, mpp: float
) -> None:
    """Scaled by the slide's percentiles, never by those of a tile."""
    fields: dict[str, Any] = {"channels": {"nuclear": 0}, "mpp": mpp}
    whole = analysed(shared_stack, **fields).cells.instances
    box = Box(x, y, side, side)
    part = analysed(
        shared_stack, region={"x": x, "y": y, "width": side, "height": side}, tile_px=tile_px, **fields
    ).cells.instances
    inside = whole.take(box.contains(whole.centroids))
    np.testing.assert_array_equal(part.vertices, inside.vertices)
    np.testing.assert_array_equal(part.scores, inside.scores)


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    folder = tmp_path_factory.mktemp("stack")
    write_pipeline(folder, "toy-nuclear", ["nuclear"])
    (folder / "slides").mkdir()
    write_stack(folder / "slides" / "stack.ome.tiff", field_of(3))
    models, pipelines, slides = (folder / name for name in ("models", "pipelines", "slides"))
    made = Analyser(
        Settings(models_dir=models, pipelines_dir=pipelines, slide_roots=(slides,), threads=2), observer=Silent()
    )
    yield made
    made.close()


def test_a_pipeline_of_colours_does_not_guess() -> None:
    """What a stack's channels are is to be said, for each of the colours; a stack of one channel is grey."""
    data = tiff(field_of(3), **GREY)
    nuclei = Analyser(Settings(threads=1), observer=Silent())
    try:
        with pytest.raises(UnknownChannelError, match="no channel 'red'"):
            analysed(nuclei, data, pipeline="nuclei")
        grey = {"red": 0, "green": 0, "blue": 0}
        found = analysed(nuclei, data, pipeline="nuclei", channels=grey).cells.instances
        assert len(found) > 30
        with pytest.raises(InvalidRequestError, match="takes colours, but the slide is a stack"):
            analysed(nuclei, data, pipeline="nash")
        with pytest.raises(InvalidRequestError, match="takes the colours"):
            analysed(nuclei, data, pipeline="nash", channels=grey)
    finally:
        nuclei.close()


def test_a_cascade_on_channels_is_refused(tmp_path: Path) -> None:
    write_pipeline(
        tmp_path, "toy-nuclear", ["nuclear"], cascade=[{"model": "toy-classifier"}],
        heatmaps=[{"name": "d", "title": "D", "kind": "density", "classes": ["Red"]}],
    )  # fmt: skip
    fields = toy_models.classifier_fields("toy-classifier", 72)
    toy_models.write_package(tmp_path / "models", fields, toy_models.redness_classifier(72))
    with pytest.raises(PipelineSpecError, match="takes nuclear, but classifiers take colours"):
        Analyser(Settings(models_dir=tmp_path / "models", pipelines_dir=tmp_path / "pipelines"), observer=Silent())


def test_a_slide_with_its_signal_in_one_colour_is_nuclear(analyser: Analyser, shared_data: Path) -> None:
    """The blue of a Hamamatsu slide of DAPI, without being asked for."""
    folder = shared_data / "slides"
    settings_ = analyser._settings.model_copy(update={"slide_roots": (folder,)})
    made = Analyser(settings_, observer=Silent())
    try:
        region = {"x": 1500, "y": 2000, "width": 600, "height": 600}
        request = wire.parse_request({"pipeline": "toy-nuclear", "slide": "fluo-dapi.ndpi", "region": region})
        report = made.analyse(request, None, Control())
    finally:
        made.close()
    assert facts(report.analysis).channels["nuclear"].name == "blue"


def test_a_camera_stack_of_three_channels_is_read(analyser: Analyser, shared_data: Path) -> None:
    """BBBC022, channels first, 12 bits in 16."""
    path = shared_data / "fluorescence16" / "bbbc022_IXMtest_A02_s9.tif"
    found = analysed(analyser, path.read_bytes(), mpp=0.656, channels={"nuclear": 0})
    assert facts(found.analysis).channels["nuclear"].name == "channel-0"
    assert len(found.cells.instances) > 5
