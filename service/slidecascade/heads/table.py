"""The heads there are: those of this package, and those of installed packages.

A package adds a head by an entry point of the group ``slidecascade.heads``, whose name is the head's and whose
value is a `Head` object, such as ``stars = my_package.heads:STARS``. It is loaded when a model with that head is.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from slidecascade.errors import HeadPluginError
from slidecascade.heads.classes import CLASSES
from slidecascade.heads.flows import FLOWS
from slidecascade.heads.head import AnyHead, Head, HeadOptions
from slidecascade.heads.maskrcnn import MASKRCNN
from slidecascade.heads.mesmer import MESMER
from slidecascade.heads.overlapping import OVERLAPPING
from slidecascade.heads.probabilities import SIGMOID, SOFTMAX
from slidecascade.heads.semantic import SEMANTIC
from slidecascade.heads.stardist import STARDIST
from slidecascade.heads.unet import UNET
from slidecascade.models.tensors import OutputSpec

GROUP: Final = "slidecascade.heads"
_BROKEN: Final = (ImportError, SyntaxError, AttributeError, NameError, TypeError, ValueError, LookupError, OSError,
                 RuntimeError, ArithmeticError)  # fmt: skip
"""What importing another package's module may raise."""

_OWN: Final[Mapping[str, AnyHead]] = {
    head.name: head
    for head in (
        *(UNET, SEMANTIC, STARDIST, FLOWS, MASKRCNN, MESMER),
        *(CLASSES, OVERLAPPING, SOFTMAX, SIGMOID),
    )
}


def names() -> tuple[str, ...]:
    """All heads, those of other packages last; none of these is loaded.

    Raises:
        HeadPluginError: when two heads have one name.
    """
    return (*_OWN, *sorted(_installed(tuple(sys.path))))


def find(name: str) -> AnyHead:
    """The head called `name`.

    Raises:
        ValueError: when there is none.
        HeadPluginError: when two heads have one name, or the package that provides this one is broken.
    """
    installed = _installed(tuple(sys.path))
    if name in _OWN:
        return _OWN[name]
    if name not in installed:
        raise ValueError(
            f"there is no head {name!r}; there are {', '.join(names())}: choose one of them, or install the "
            "package that provides it"
        )
    return _loaded(installed[name])


def outputs_of(name: str, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
    """The outputs that the head `name` wants of a network that finds `classes`; raises what `find` does."""
    return find(name).outputs(classes)


def require_outputs(
    name: str, classes: Sequence[str], outputs: Sequence[OutputSpec], options: HeadOptions
) -> None:
    """Check that `outputs` hold all that the head `name` wants with these `options`; a network may return more.

    Raises:
        ValueError: when an output is missing or is not what the head decodes, or there is no such head.
        HeadPluginError: as `find`.
    """
    stated = {output.name: output for output in outputs}
    for wanted in find(name).outputs_with(classes, options):
        found = stated.get(wanted.name)
        if found is None:
            raise ValueError(f"the {name} head needs an output {wanted.name!r}: state it, or choose another head")
        if _decoded(found) != _decoded(wanted) or found.channels not in ((), wanted.channels):
            raise ValueError(
                f"the {name} head needs {wanted.name!r} as {_text(wanted)}, stated is {_text(found)}: correct "
                "`outputs`, `classes` or `head`"
            )


@functools.lru_cache(maxsize=4)
def _installed(_path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """The entry points of installed packages by name; read again when the places to look for packages change."""
    found = entry_points(group=GROUP)
    counts = Counter(point.name for point in found)
    for point in found:
        if point.name in _OWN:
            raise HeadPluginError(
                f"The package {_package(point)} provides a head {point.name!r}, the name of one that is built in: "
                "remove the package, or have its head renamed."
            )
        if counts[point.name] > 1:
            owners = sorted(_package(other) for other in found if other.name == point.name)
            raise HeadPluginError(
                f"The packages {' and '.join(owners)} both provide a head {point.name!r}: remove one of them."
            )
    return {point.name: point for point in found}


@functools.cache
def _loaded(point: EntryPoint) -> AnyHead:
    remedy = f"update or remove the package {_package(point)}"
    try:
        head = point.load()
    except _BROKEN as error:
        raise HeadPluginError(
            f"The head {point.name!r} cannot be loaded from {point.value} ({type(error).__name__}): {remedy}."
        ) from error
    if not isinstance(head, Head):
        raise HeadPluginError(f"{point.value} is not a head, but a {type(head).__name__}: {remedy}.")
    if head.name != point.name:
        raise HeadPluginError(f"{point.value} is a head called {head.name!r}, not {point.name!r}: {remedy}.")
    return head


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module


def _decoded(output: OutputSpec) -> tuple[object, ...]:
    """All that a head relies on."""
    return output.dtype, output.layout, output.open_shape, output.stride, output.meaning


def _text(output: OutputSpec) -> str:
    channels = f" of {', '.join(output.channels)}" if output.channels else ""
    shape = ", ".join(map(str, output.shape))
    return f"{output.dtype} {output.layout} ({shape}){channels}, stride {output.stride}, {output.meaning}"
