"""Paints nuclei: open chromatin and nucleoli in hepatocytes, dense chromatin in small cells."""

from __future__ import annotations

import numpy as np

from slidecascade_render.canvas import Box, Canvas, ramp, texture
from slidecascade_render.lattice import Field, Keys, uniform
from slidecascade_render.liver.anatomy import Nuclei
from slidecascade_render.liver.specimen import IMMUNE, OTHER, STEATOSIS, TissueOptions


def paint_nuclei(canvas: Canvas, options: TissueOptions, nuclei: Nuclei) -> None:
    """Hepatocytes first, small cells over them; the upper one owns the pixels where two overlap."""
    chromatin = 0.6 * texture(canvas, options.seed, 60, 1.15) + 0.4 * texture(canvas, options.seed, 61, 0.55)
    chromatin *= np.float32(options.texture)
    for row in range(nuclei.x_um.size):
        x, y = float(nuclei.x_um[row]), float(nuclei.y_um[row])
        box = canvas.box(x, y, 1.25 * float(nuclei.along_um[row]) + 2.5)
        if box is not None:
            _paint_nucleus(canvas, options, nuclei, row, box, chromatin[box])


def _paint_nucleus(
    canvas: Canvas, options: TissueOptions, nuclei: Nuclei, row: int, box: Box, chromatin: Field
) -> None:
    keys: Keys = nuclei.keys[row] ^ np.arange(1, 9, dtype=np.uint64)
    draw = uniform(keys, 230).tolist()
    kind, along, across_um = int(nuclei.kind[row]), float(nuclei.along_um[row]), float(nuclei.across_um[row])
    dx, dy = canvas.offsets(box, float(nuclei.x_um[row]), float(nuclei.y_um[row]))
    cosine, sine = float(np.cos(nuclei.angle[row])), float(np.sin(nuclei.angle[row]))
    u = (dx * np.float32(cosine) + dy * np.float32(sine)) / np.float32(along)
    v = (dy * np.float32(cosine) - dx * np.float32(sine)) / np.float32(across_um)
    if kind == OTHER:
        v = v + np.float32(0.9 * (draw[0] - 0.5)) * u * u  # a gentle bend
    reach = np.sqrt(u * u + v * v)
    turn = np.arctan2(v, u)
    dense = kind in (IMMUNE, OTHER)
    lumps = 0.09 if dense else 0.03 + 0.06 * draw[5] ** 2
    reach /= 1.0 + np.float32(lumps) * (
        np.sin(2 * turn + np.float32(6.28 * draw[1])) + np.sin(3 * turn + np.float32(6.28 * draw[2]))
    )
    inside_um = (1.0 - reach) * np.float32(across_um)
    if dense:
        haematoxylin, eosin = _dense_stain(kind, draw, inside_um=inside_um, chromatin=chromatin)
    else:
        haematoxylin, eosin = _open_stain(
            kind, draw, options.nuclear_density, reach=reach, inside_um=inside_um, u=u, v=v, chromatin=chromatin
        )
    if kind == IMMUNE:
        _paint_rim(canvas, box, draw, inside_um)
    if not dense:
        halo = np.float32(0.30 + 0.4 * options.glycogen * draw[2])
        canvas.eosin[box] *= 1.0 - halo * ramp(np.float32(1.0) + inside_um / np.float32(1.2))
    edge = np.float32(max(0.75, 1.2 * canvas.mpp))
    canvas.cover(box, ramp(inside_um / edge + np.float32(0.5)), haematoxylin, eosin)
    canvas.labels[box][reach < 1.0] = row + 1


def _paint_rim(canvas: Canvas, box: Box, draw: list[float], inside_um: Field) -> None:
    """The little cytoplasm of an immune cell: a clear rim, a pink one, or a plasma cell's purple one."""
    width_um = 0.3 + 1.4 * draw[5]
    haematoxylin, eosin = ((0.04, 0.10), (0.06, 0.42), (0.34, 0.50))[int(draw[6] > 0.55) + int(draw[6] > 0.85)]
    alpha = np.float32(0.3 + 0.6 * draw[7]) * ramp((inside_um + np.float32(width_um)) / np.float32(0.8))
    canvas.cover(box, alpha, haematoxylin, eosin)


def _dense_stain(kind: int, draw: list[float], *, inside_um: Field, chromatin: Field) -> tuple[Field, Field]:
    """Concentrations of haematoxylin and eosin inside the nucleus of a small cell."""
    rim = np.exp(-np.square(inside_um / np.float32(0.55)))
    depth = 0.82 + 0.38 * draw[3] if kind == IMMUNE else 0.52 + 0.58 * draw[3]
    dense = depth + 0.26 * chromatin + 0.06 * rim
    return dense.astype(np.float32), np.full_like(dense, 0.40)


def _open_stain(
    kind: int,
    draw: list[float],
    density: float,
    *,
    reach: Field,
    inside_um: Field,
    u: Field,
    v: Field,
    chromatin: Field,
) -> tuple[Field, Field]:
    """Concentrations of haematoxylin and eosin inside the nucleus of a hepatocyte."""
    rim = np.exp(-np.square(inside_um / np.float32(0.55)))
    squeezed = 0.04 + 0.32 * draw[6] if kind == STEATOSIS else 0.0
    faint = 0.55 if draw[7] > 0.9 else 1.0  # a nucleus the section only grazes
    open_chromatin = draw[0] * (1.0 - 1.6 * density)  # a clear nucleus with a dark outline and clumps
    body = (0.54 + 0.22 * draw[3] + max(squeezed, density * (0.6 + 0.4 * draw[6])) - 0.16 * open_chromatin) * faint
    clumps = (0.18 + 0.26 * open_chromatin) * chromatin
    haematoxylin = body + clumps + (0.05 + 0.30 * open_chromatin) * rim * faint
    eosin = 0.60 + 0.10 * chromatin
    for index in range(1 + int(draw[4] > 0.6)):
        at_u, at_v = 0.9 * (draw[5 + index] - 0.5), 0.9 * (draw[(3 + index) % 8] - 0.5)
        spot = np.exp(-(np.square(u - np.float32(at_u)) + np.square(v - np.float32(at_v))) / np.float32(0.035))
        haematoxylin = haematoxylin + 0.26 * (1.0 - 1.6 * density) * faint * spot
        eosin = eosin + 0.16 * spot
    return haematoxylin * (reach < 1.6), eosin
