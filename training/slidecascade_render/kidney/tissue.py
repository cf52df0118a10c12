"""A window of kidney: tubules, glomeruli, vessels, capsule and glass, and the mask of the glomeruli.

What is seen at a place is a function of the seed and the place, so windows of one plane fit together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade_render.canvas import ramp
from slidecascade_render.kidney.bodies import Bodies, Grain, Paint, aggregate, bodies, glomerulus, vessel
from slidecascade_render.kidney.section import Section, draw
from slidecascade_render.kidney.tubules import Cells, cells
from slidecascade_render.lattice import Field, Floats, Noise, white_noise
from slidecascade_render.window import Window

Rgb = npt.NDArray[np.uint8]

PAINTED_MPP: Final = 4.0
"""Coarsest pixels that are painted; coarser ones are averaged from these, as scanners' pyramids are."""


@dataclass(frozen=True, slots=True)
class RenderedKidney:
    """RGB pixels uint8 ``(H, W, 3)``, and uint8 ``(H, W)``: 1 where the middle of a pixel lies in a glomerulus.

    Glomeruli reach to Bowman's capsule. Globally sclerosed ones are not in the mask.
    """

    image: Rgb
    mask: npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Layers:
    """Stain concentrations being painted, float32 (H, W) each, and the deepest depth in a glomerulus in um."""

    x_um: Floats
    y_um: Floats
    haematoxylin: Field
    pas: Field
    cytoplasm: Field
    depth_um: Field


def render(seed: int, *, mpp: float, x_px: int, y_px: int, width_px: int, height_px: int) -> RenderedKidney:
    """The window whose upper left pixel is (x_px, y_px) of the plane of `seed`, at `mpp` um per pixel."""
    section = draw(seed)
    times = max(1, int(np.ceil(mpp / PAINTED_MPP)))
    margin = int(np.ceil(4.0 * section.blur_um / mpp)) + 1
    left, top = x_px - margin, y_px - margin
    columns, rows = width_px + 2 * margin, height_px + 2 * margin
    fine = mpp / times
    x_um = (left * times + np.arange(columns * times) + 0.5) * fine
    y_um = (top * times + np.arange(rows * times) + 0.5) * fine
    layers = _parenchyma(seed, section, x_um, y_um)
    _place_bodies(layers, seed, section)
    edge = _edge(layers, seed, section)
    light = _transmitted(layers, section)
    light = cv2.resize(light, (columns, rows), interpolation=cv2.INTER_AREA) if times > 1 else light
    light = cv2.GaussianBlur(light, (0, 0), section.blur_um / mpp)
    inner = np.s_[margin : margin + height_px, margin : margin + width_px]
    noise = white_noise(seed, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)
    pixels = np.clip(np.rint(light[inner] + np.float32(section.noise) * noise), 0, 255).astype(np.uint8)
    depth = np.where(edge > 0, layers.depth_um, np.float32(-1e3))
    depth = cv2.resize(depth, (columns, rows), interpolation=cv2.INTER_AREA) if times > 1 else depth
    return RenderedKidney(np.ascontiguousarray(pixels), (depth[inner] > 0).astype(np.uint8))


def _noise(layers_x: Floats, layers_y: Floats, seed: int, channel: int, pitch_um: float) -> Field:
    return Noise(seed, channel, pitch_um).over(layers_x, layers_y)


def _parenchyma(seed: int, section: Section, x_um: Floats, y_um: Floats) -> _Layers:
    """Tubules and interstitium everywhere."""

    def noise(channel: int, pitch_um: float) -> Field:
        return _noise(x_um, y_um, seed, channel, pitch_um)

    pitch = section.tubule_um
    x = (x_um[None, :] + section.warp * pitch * noise(1, 1.1 * pitch)).astype(np.float32) / np.float32(pitch)
    y = (y_um[:, None] + section.warp * pitch * noise(2, 1.1 * pitch)).astype(np.float32) / np.float32(pitch)
    along = np.float32(np.cos(section.angle)) * x + np.float32(np.sin(section.angle)) * y
    aside = np.float32(np.cos(section.angle)) * y - np.float32(np.sin(section.angle)) * x
    is_ray = noise(3, 420.0) + section.rays > 0.25
    round_cells = cells(seed, 201, x, y)
    long_cells = cells(seed, 202, along / np.float32(3.4), aside * np.float32(1.05))
    found = Cells(
        *(
            np.where(is_ray, getattr(long_cells, name), getattr(round_cells, name))
            for name in ("across", "down", "nearest", "border", "sort", "size")
        )
    )
    medulla = ramp(2.5 * (noise(4, 1500.0) + section.medulla))
    return _tubules(section, found, medulla, noise, x_um, y_um)


def _tubules(
    section: Section,
    found: Cells,
    medulla: Field,
    noise: Callable[[int, float], Field],
    x_um: Floats,
    y_um: Floats,
) -> _Layers:
    """Paint the cells of `found` as tubules between interstitium; `noise` is by channel and pitch in um."""
    contrast = np.float32(section.contrast)
    grain, speck, patch = noise(5, 9.0), noise(9, 16.0), noise(6, 70.0)
    gap = 0.06 + 0.24 * section.fibrosis * ramp(0.5 + 1.4 * noise(7, 160.0))
    inside = ramp((found.border - gap) / 0.10 + 0.5)
    is_distal = (found.sort > 0.66).astype(np.float32)
    open_part = 0.30 * section.lumen - 0.08 + is_distal * 0.16 + 0.12 * medulla + 0.30 * (found.size - 0.5)
    lumen = ramp((open_part - slit(found, section.slits) + 0.07 * grain) / 0.14 + 0.5)
    lumen = lumen * (1.0 - section.filled * ramp(0.5 + 1.5 * (speck + found.sort - 0.5)))
    body = inside * (1.0 - lumen)
    nucleus = ramp((grain - 0.40) * 4.0) * ramp((found.border - gap) * 6.0)
    membrane = np.exp(-(((found.border - gap) / 0.06) ** 2))
    infiltrate = ramp(3.0 * (noise(8, 210.0) - 0.95 + 0.9 * section.inflammation))
    between = 1.0 - inside
    cast = (found.sort > 0.985).astype(np.float32) * lumen
    tone = 1.0 + 0.5 * (found.size - 0.5) + 0.35 * patch + 0.3 * contrast * speck
    # Of each tubule, two numbers in -1 to 1 that are independent of its sort and size.
    bluer, redder = (
        section.variety * (2.0 * (each * np.float32(61.0) % 1.0) - 1.0) for each in (found.sort, found.size)
    )
    return _Layers(
        x_um,
        y_um,
        haematoxylin=body * (0.10 + 0.10 * is_distal + 0.08 * bluer + 0.5 * contrast * nucleus) * tone
        + between * (0.16 + 0.75 * infiltrate * ramp(0.6 + 1.2 * grain)),
        pas=body * (0.15 + 0.20 * (1 - is_distal) + 0.13 * redder + 0.10 * contrast * grain) * tone
        + 0.36 * membrane
        + between * (0.16 + 0.08 * speck)
        + 0.9 * cast,
        cytoplasm=body * (0.50 - 0.16 * is_distal + 0.14 * contrast * grain) * tone + between * 0.24 + 0.03,
        depth_um=np.full(found.border.shape, -1e3, np.float32),
    )


def slit(found: Cells, slits: float) -> Field:
    """Distance from the middle of a tubule's lumen, which is longer than wide by up to a factor of four."""
    turn = np.float32(2 * np.pi) * (found.sort * np.float32(29.0) % 1.0)
    stretch = 1.0 + slits * (found.size * np.float32(37.0) % 1.0)
    along = found.across * np.cos(turn) + found.down * np.sin(turn)
    aside = found.down * np.cos(turn) - found.across * np.sin(turn)
    away: Field = np.hypot(along / stretch, aside * stretch)
    return away


def _place_bodies(layers: _Layers, seed: int, section: Section) -> None:
    x_um, y_um = layers.x_um, layers.y_um
    window = Window(float(x_um[0]), float(y_um[0]), float(x_um[-1]), float(y_um[-1]))
    found = bodies(seed, section, window)
    cortex = Noise(seed, 4, 1500.0).at(found.x_um, found.y_um) + section.medulla < 0.05
    for index in np.flatnonzero(found.is_vessel | cortex).tolist():
        _place(layers, seed, section, found, index)


def _place(layers: _Layers, seed: int, section: Section, found: Bodies, index: int) -> None:
    x, y, radius = (float(each[index]) for each in (found.x_um, found.y_um, found.radius_um))
    reach = 1.5 * radius + 6.0
    left, right = np.searchsorted(layers.x_um, (x - reach, x + reach)).tolist()
    top, bottom = np.searchsorted(layers.y_um, (y - reach, y + reach)).tolist()
    if left >= right or top >= bottom:
        return
    box = np.s_[top:bottom, left:right]
    columns, rows = layers.x_um[left:right], layers.y_um[top:bottom]
    across, down = (columns - x).astype(np.float32)[None, :], (rows - y).astype(np.float32)[:, None]
    fine, coarse = _noise(columns, rows, seed, 21, 8.5), _noise(columns, rows, seed, 22, 22.0)
    chances = found.chances[index]
    if not found.is_vessel[index]:
        pitch = np.float32(13.0 + 20.0 * chances[16])
        shape = (len(rows), len(columns))
        lobes = cells(
            seed,
            211,
            np.broadcast_to((columns / pitch).astype(np.float32)[None, :], shape),
            np.broadcast_to((rows / pitch).astype(np.float32)[:, None], shape),
        )
        paint = glomerulus(across, down, radius, chances, section, Grain(fine, coarse, lobes))
    elif chances[17] < section.aggregates:
        paint = aggregate(across, down, radius, chances, fine, coarse)
    else:
        paint = vessel(across, down, radius, chances, fine, coarse)
    _cover(layers, box, paint)


def _cover(layers: _Layers, box: tuple[slice, slice], paint: Paint) -> None:
    for stain, value in (
        (layers.haematoxylin, paint.haematoxylin),
        (layers.pas, paint.pas),
        (layers.cytoplasm, paint.cytoplasm),
    ):
        stain[box] += paint.alpha * (value - stain[box])
    layers.depth_um[box] = np.maximum(layers.depth_um[box], paint.depth_um)


def _edge(layers: _Layers, seed: int, section: Section) -> Field:
    """Cut the tissue along its edge; the distance to it in um, positive inside, roughly."""
    x_um, y_um = layers.x_um, layers.y_um
    edge: Field = np.float32(section.edge_um) + (
        1100.0 * _noise(x_um, y_um, seed, 31, 2600.0)
        + 130.0 * _noise(x_um, y_um, seed, 32, 420.0)
        + 22.0 * _noise(x_um, y_um, seed, 33, 45.0)
    )
    if section.capsule_um > 0:
        fibres = _noise(x_um, y_um, seed, 34, 31.0) + 0.8 * _noise(x_um, y_um, seed, 35, 11.0)
        alpha = 1.0 - ramp((edge - section.capsule_um) / 25.0 + 0.5)
        for stain, value in (
            (layers.haematoxylin, 0.08 + 0.06 * fibres),
            (layers.pas, 0.26 + 0.12 * fibres),
            (layers.cytoplasm, 0.22 + 0.10 * fibres),
        ):
            np.add(stain, alpha * (value - stain), out=stain)
        layers.depth_um[alpha > 0.5] = -1e3
    tissue = ramp(edge / 6.0 + 0.5)
    for stain in (layers.haematoxylin, layers.pas, layers.cytoplasm):
        np.multiply(stain, tissue, out=stain)
    return edge


def _transmitted(layers: _Layers, section: Section) -> Field:
    """Light through the section by the law of Beer and Lambert: float32 (H, W, 3) RGB."""
    stains = cv2.merge([each.astype(np.float32) for each in (layers.haematoxylin, layers.pas, layers.cytoplasm)])
    density = cv2.transform(stains.clip(0.0, 2.0), section.densities.T * np.float32(-np.log(10.0)))
    light: Field = cv2.exp(density) * np.array(section.background_rgb, np.float32)
    return light
