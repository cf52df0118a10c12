"""The PyTorch module that a file of weights is for: by name, or built by the caller's own function."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Final

from torch import Tensor, nn

from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade_convert.architectures import ARCHITECTURES
from slidecascade_convert.sessions import first_line
from slidecascade_convert.torch_failures import RAISED
from slidecascade_convert.torch_resnet_unet import ResnetUnet
from slidecascade_convert.torch_unext import UNEXT50, UNEXT101, Unext

NETWORKS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "unext50": lambda: Unext(UNEXT50),
    "unext101": lambda: Unext(UNEXT101),
    "resnet34-unet": ResnetUnet,
}

# What DataParallel, Lightning and torch.compile put before the names of weights.
_PREFIXES: Final = ("module.", "model.", "_orig_mod.")
_MAX_NESTING: Final = 4

# Counters that batch normalisation has had since torch 0.4.1 and that inference does not read.
_UNREAD: Final = "num_batches_tracked"


def network(arch: str | None) -> nn.Module:
    """The untrained network called `arch`, or what the caller's ``module:callable`` returns.

    Raises:
        InvalidRequestError: when the architecture is unknown or missing.
        ConversionError: the callable fails, or returns no module.
    """
    if arch is None:
        raise InvalidRequestError(
            "The source holds weights alone: name the network they are for, "
            f"--arch {'|'.join(NETWORKS)} or --arch module:callable."
        )
    if arch in NETWORKS:
        return NETWORKS[arch]()
    module, _, attribute = arch.partition(":")
    if arch in ARCHITECTURES or not attribute:
        raise InvalidRequestError(
            f"There is no PyTorch architecture {arch!r}: choose {', '.join(NETWORKS)} or give module:callable."
        )
    return _called(module, attribute)


def fit(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load the weights into `model`, in float32 and for inference; returns notes on ignored weights.

    Names may have one or more prefixes of wrappers; the prefix with most matching names is removed.

    Raises:
        ConversionError: naming the first of the weights that are missing, too many or of another shape.
    """
    expected = model.state_dict()
    names = max(_readings(weights), key=lambda each: (len(expected.keys() & each), -len(each.keys() - expected)))
    chosen = {name: weights[original] for name, original in names.items()}
    _check_shapes(expected, chosen)
    result = model.load_state_dict(chosen, strict=False, assign=True)
    missing = [name for name in result.missing_keys if not name.endswith(_UNREAD)]
    _check_names(missing, list(result.unexpected_keys))
    model.float().eval().requires_grad_(requires_grad=False)
    left_out = sorted(set(weights) - set(names.values()))
    if not left_out:
        return ()
    return (f"Weights outside of the network were left out: {_some(left_out)}.",)


def _called(module: str, attribute: str) -> nn.Module:
    # The caller's own code, not the file's: it lies where the command was called.
    sys.path.append(os.getcwd())
    try:
        made = getattr(import_module(module), attribute)
        model = made if isinstance(made, nn.Module) else made()
    except (*RAISED, ImportError, SyntaxError) as error:
        raise ConversionError(
            f"--arch {module}:{attribute} cannot be called without arguments in this folder: "
            f"{first_line(error).rstrip('.')}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ConversionError(
            f"--arch {module}:{attribute} returns {type(model).__name__}: return a torch.nn.Module."
        )
    return model


def _readings(weights: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names without every sequence of prefixes that some of them have, each with the name in the file."""
    pending = [({name: name for name in weights}, 0)]
    while pending:
        names, depth = pending.pop()
        yield names
        # torch.compile of a part marks names in their middle.
        if any("._orig_mod." in name for name in names):
            pending.append(({name.replace("._orig_mod.", "."): file for name, file in names.items()}, depth))
        for prefix in _PREFIXES if depth < _MAX_NESTING else ():
            inner = {name[len(prefix) :]: file for name, file in names.items() if name.startswith(prefix)}
            if inner:
                pending.append((inner, depth + 1))


def _check_shapes(expected: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
    wrong = [name for name in expected.keys() & chosen if expected[name].shape != chosen[name].shape]
    if wrong:
        name = min(wrong)
        raise ConversionError(
            f"The weights do not fit the network: {name} has the shape {tuple(chosen[name].shape)} in the source "
            f"and {tuple(expected[name].shape)} in the network ({len(wrong)} such): correct --arch."
        )


def _check_names(missing: list[str], unexpected: list[str]) -> None:
    differences = []
    if missing:
        differences.append(f"the source lacks {_some(missing)}")
    if unexpected:
        differences.append(f"the network has no {_some(unexpected)}")
    if differences:
        raise ConversionError(f"The weights do not fit the network: {' and '.join(differences)}; correct --arch.")


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(name[:100] for name in names[:3]) + (f" and {rest} more" if rest > 0 else "")
