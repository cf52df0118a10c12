"""The outputs that each head wants of a network; a package with a head is checked against them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from slidecascade.cells.heads import probabilities, semantic, unet
from slidecascade.models.tensors import OutputSpec

_OUTPUTS: Final[Mapping[str, Callable[[Sequence[str]], tuple[OutputSpec, ...]]]] = {
    "unet": lambda _: unet.OUTPUTS,
    "semantic": lambda _: semantic.OUTPUTS,
    "softmax": probabilities.outputs,
    "sigmoid": probabilities.outputs,
}


def outputs_of(head: str, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
    """The outputs that `head` wants of a network that finds `classes`."""
    return _OUTPUTS[head](classes)


def require_outputs(head: str, classes: Sequence[str], outputs: Sequence[OutputSpec]) -> None:
    """Check that `outputs` hold all that `head` wants; a network may return more.

    Raises:
        ValueError: when an output is missing or is not what the head decodes.
    """
    stated = {output.name: output for output in outputs}
    for wanted in outputs_of(head, classes):
        found = stated.get(wanted.name)
        if found is None:
            raise ValueError(f"the {head} head needs an output {wanted.name!r}: state it, or choose another head")
        if _decoded(found) != _decoded(wanted) or found.channels not in ((), wanted.channels):
            raise ValueError(
                f"the {head} head needs {wanted.name!r} as {_text(wanted)}, stated is {_text(found)}: correct "
                "`outputs`, `classes` or `head`"
            )


def _decoded(output: OutputSpec) -> tuple[object, ...]:
    """All that a head relies on."""
    return output.dtype, output.layout, output.open_shape, output.stride, output.meaning


def _text(output: OutputSpec) -> str:
    channels = f" of {', '.join(output.channels)}" if output.channels else ""
    shape = ", ".join(map(str, output.shape))
    return f"{output.dtype} {output.layout} ({shape}){channels}, stride {output.stride}, {output.meaning}"
