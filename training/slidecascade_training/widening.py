"""A wider network that computes what a narrow one did: Net2Net (Chen, Goodfellow and Shlens, 2016).

A new channel is a copy of an old one, and whatever reads the copied channel divides its weights among the copies.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Channels = npt.NDArray[np.intp]

# Copies that were exactly equal would stay equal: their gradients are the same.
_NOISE = 0.02


def widened(narrow: Any, wide: Any, *, seed: int) -> Any:
    """Give `wide` weights with which it computes the function of `narrow`, up to a little noise.

    Args:
        narrow: A Keras network of convolutions, batch norm, activations, pooling, concatenation, addition and
            depth-to-space, in any arrangement.
        wide: The same arrangement; its convolutions have as many filters or more. It is changed and returned.
        seed: Chooses the channels that are copied, and the noise.

    Raises:
        ValueError: The networks differ in more than the number of filters.
    """
    rng = np.random.default_rng(seed)
    steps = list(zip(narrow.operations, wide.operations, strict=False))
    if len(narrow.operations) != len(wide.operations) or any(type(old) is not type(new) for old, new in steps):
        raise ValueError("The networks differ in their layers; only the number of filters may differ.")
    # For every tensor of the wide network: which channel of the narrow one each of its channels copies.
    copies: dict[int, Channels] = {}
    for old, new in steps:
        sources = [copies[id(tensor)] for tensor in _inputs(new)]
        kind = type(new).__name__
        if kind == "InputLayer":
            copied = np.arange(new.output.shape[-1])
        elif kind == "Concatenate":
            widths = [tensor.shape[-1] for tensor in _inputs(old)]
            copied = np.concatenate([s + sum(widths[:i]) for i, s in enumerate(sources)])
        elif kind == "Conv2D":
            copied = _chosen(old.filters, new.filters, rng, blocks=4 if _feeds_rearrangement(new) else 1)
            _widen_convolution(old, new, sources[0], copied, rng)
        elif kind == "DepthToSpace":
            copied = sources[0][: len(sources[0]) // 4]
        else:
            copied = sources[0]
            if kind == "BatchNormalization":
                new.set_weights([weights[copied] for weights in old.get_weights()])
        copies[id(new.output)] = copied
    return wide


def _inputs(layer: Any) -> list[Any]:
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    return list(tensors)


def _feeds_rearrangement(layer: Any) -> bool:
    """Whether the layer's channels become 2 x 2 pixels: they are copied in four equal blocks."""
    return any(type(node.operation).__name__ == "DepthToSpace" for node in layer._outbound_nodes)


def _chosen(old: int, new: int, rng: np.random.Generator, *, blocks: int) -> Channels:
    """Every old channel once, then random ones again; in each of `blocks` blocks alike."""
    per_old, per_new = old // blocks, new // blocks
    once = np.concatenate([np.arange(per_old), rng.choice(per_old, per_new - per_old)])
    chosen: Channels = (np.arange(blocks)[:, None] * per_old + once).ravel()
    return chosen


def _widen_convolution(old: Any, new: Any, source: Channels, copied: Channels, rng: np.random.Generator) -> None:
    kernel, *bias = old.get_weights()
    times = np.bincount(source, minlength=kernel.shape[2])
    wide = (kernel / times[:, None])[:, :, source][..., copied]
    if len(copied) > kernel.shape[3] or len(source) > kernel.shape[2]:
        wide = wide + rng.normal(0, _NOISE * float(kernel.std()), wide.shape)
    new.set_weights([wide, *(weights[copied] for weights in bias)])
