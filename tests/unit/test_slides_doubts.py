"""What slides state that cannot be true: pixel sizes, objectives, exchanged colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from real_images import real_images
from slidecascade.errors import ImplausibleResolutionError
from slidecascade.slides import omexml
from slidecascade.slides.doubts import Stated, doubts_of, looks_swapped
from slidecascade.slides.facts import compute_facts
from slidecascade.slides.region import resolve_mpp
from slidecascade.slides.slide import Slide
from slidecascade_render.liver.tissue import TissueOptions, render

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write(path: Path, *, mpp: tuple[float, float] | None = None, description: str | None = None) -> Path:
    """A small slide that states `mpp` in its tags, or a description."""
    tags = {} if mpp is None else {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": "CENTIMETER"}
    pixels = np.full((512, 512, 3), 200, np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", metadata=None, description=description, **tags
    )
    return path


def ome(attributes: str, before: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}<OME xmlns="{OME}"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" SizeX="512" SizeY="512" Type="uint8" {attributes}><Channel ID="C:0"/></Pixels>'
        "</Image></OME>"
    )


@pytest.mark.parametrize("stated", [0.0273, 0.049])
def test_a_pixel_size_that_no_microscope_makes_is_refused_by_name(tmp_path: Path, stated: float) -> None:
    """Public data sets state a tenth of the true size: analysed at it, a slide has no nuclei."""
    slide = Slide.open(write(tmp_path / "a.tif", mpp=(stated, stated)))
    with pytest.raises(ImplausibleResolutionError, match=rf"The pixel size that the slide states, {stated:g}"):
        resolve_mpp(slide, None)
    with pytest.raises(ImplausibleResolutionError, match=r"`mpp`, 0\.02 um"):
        resolve_mpp(slide, 0.02)
    assert resolve_mpp(slide, stated * 10) == stated * 10
    slide.close()


@pytest.mark.parametrize(
    ("mpp", "power", "doubted"),
    [
        (0.25, 40.0, False),
        (0.5, 20.0, False),
        (0.2325, 20.0, False),  # MIRAX with an adapter
        (0.11, 40.0, False),  # Zeiss with a small camera
        (1.0, 10.0, False),
        (0.65, 20.0, False),
        (1.0, 20.0, True),  # a placeholder
        (0.25, 10.0, True),
        (2.5, 20.0, True),
        (1.0, None, False),
    ],
)
def test_a_pixel_size_that_contradicts_the_objective_is_doubted(
    mpp: float, power: float | None, doubted: bool
) -> None:
    """About 10 um divided by the power, with room for adapters and cameras."""
    found = doubts_of(Stated((mpp, mpp), power), mpp)
    assert [item.code for item in found] == (["mpp-contradicts-objective"] if doubted else [])


def test_pixels_that_are_not_square_are_doubted_when_a_size_is_sent(tmp_path: Path) -> None:
    """The slide has no single size; with one that is sent, the answer says what is distorted."""
    slide = Slide.open(write(tmp_path / "a.tif", mpp=(0.5, 0.6)))
    assert slide.mpp is None
    (found,) = doubts_of(slide.stated, 0.5)
    assert found.code == "anisotropic-pixels"
    assert "0.5 x 0.6 um" in found.message
    assert doubts_of(Stated((0.5, 0.51)), 0.5) == ()
    slide.close()


@pytest.mark.parametrize(
    ("attributes", "um"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', 0.25),
        ('PhysicalSizeX="0.25" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="250" PhysicalSizeYUnit="nm"', 0.25),
        ('PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm" PhysicalSizeY="2.5E-4" PhysicalSizeYUnit="mm"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25"', 0.25),
        ('PhysicalSizeX="2500" PhysicalSizeXUnit="Å" PhysicalSizeY="2500" PhysicalSizeYUnit="Å"', 0.25),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None),
        ('PhysicalSizeX="0.25"', None),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', None),
        ('PhysicalSizeX="NaN" PhysicalSizeY="NaN"', None),
        ("", None),
    ],
)
def test_an_ome_tiff_states_its_pixel_size(tmp_path: Path, attributes: str, um: float | None) -> None:
    """In units from nanometres to millimetres, micrometres where none is named."""
    slide = Slide.open(
        write(tmp_path / "a.ome.tif", description=ome(attributes).replace("µ", "&#181;").replace("Å", "&#197;"))
    )
    assert slide.mpp == (None if um is None else pytest.approx(um))
    slide.close()


def test_what_ome_xml_states_comes_before_the_tags(tmp_path: Path) -> None:
    """The tags of an OME-TIFF are often the 72 dpi of a screen."""
    text = ome('PhysicalSizeX="0.25" PhysicalSizeY="0.25"')
    slide = Slide.open(write(tmp_path / "a.tif", mpp=(25_400 / 72,) * 2, description=text))
    assert slide.mpp == pytest.approx(0.25)
    slide.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<OME",
        "a photograph of <OME> tissue",
        ome('PhysicalSizeX="&a;" PhysicalSizeY="1"', '<!DOCTYPE OME [<!ENTITY a "0.25">]>'),
        ome('PhysicalSizeX="1" PhysicalSizeY="1"', '<!DOCTYPE OME SYSTEM "file:///etc/passwd">'),
        "<?xml version='1.0' encoding='rot13'?><OME><Pixels/></OME>",
        "<OME>" + "<a>" * 100_000,
    ],
    ids=["empty", "cut", "prose", "entity", "external", "encoding", "deep"],
)
def test_other_xml_states_nothing_and_does_nothing(text: str) -> None:
    """No entity is expanded, no file is read, nothing raises."""
    assert omexml.sides_um(text) is None


def tissue(mpp: float = 0.5) -> NDArray[np.uint8]:
    return render(TissueOptions(seed=3, mpp=mpp), width_px=512, height_px=512).image


def test_exchanged_colours_are_noticed() -> None:
    """Hematoxylin absorbs red more than blue; exchanged, nuclei look brown."""
    image = tissue()
    assert not looks_swapped(image)
    assert looks_swapped(image[..., ::-1])


def test_glass_black_and_grey_say_nothing_of_colours() -> None:
    """Without stain there is no order to judge."""
    for level in (0, 128, 250):
        assert not looks_swapped(np.full((64, 64, 3), level, np.uint8))
    grey = np.repeat(tissue().mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    assert not looks_swapped(grey)


def test_the_facts_of_a_slide_hold_what_its_colours_look_like(tmp_path: Path) -> None:
    """Once per slide, from the fixed sample."""
    from contextlib import nullcontext

    for name, pixels in {"right": tissue(), "wrong": tissue()[..., ::-1]}.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, np.ascontiguousarray(pixels), tile=(256, 256), photometric="rgb", metadata=None)
        slide = Slide.open(path)
        facts = compute_facts(lambda *, private=False, slide=slide: nullcontext(slide))
        assert facts.red_blue_swapped is (name == "wrong")
        slide.close()


def test_no_real_image_is_a_false_alarm_and_exchanged_ones_are_found(shared_data: Path) -> None:
    """Bright-field images and slides of H&E, PAS, trichrome and others; the rates stand in docs/warnings.md."""
    alarms, found, total, stained = [], 0, 0, 0
    for name, pixels in real_images(shared_data):
        total += 1
        if looks_swapped(pixels):
            alarms.append(name)
        if "/tumour/" in name or "/liver/gtex" in name or "/nucls/" in name or "CMU-1" in name:
            stained += 1
            found += looks_swapped(pixels[..., ::-1])
    print(f"{len(alarms)} false alarms of {total}: {alarms}; found {found} of {stained} exchanged H&E images")
    assert total >= 60
    assert alarms == []
    assert found >= 0.75 * stained
