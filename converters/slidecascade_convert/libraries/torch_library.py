"""State dicts of Cellpose, U2-Net and torchvision's Mask R-CNN as networks to serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slidecascade.errors import ConversionError
from slidecascade.heads.flows import FLOWS, FlowsOptions
from slidecascade.heads.maskrcnn import MASKRCNN, MaskRcnnOptions
from slidecascade.heads.semantic import SEMANTIC, SemanticOptions
from slidecascade.models.tensors import InputSpec, Tensors
from slidecascade_convert.libraries import cpnet, maskrcnn, u2net
from slidecascade_convert.libraries.network import RGB, LibraryNetwork, channel_image, channels_of, mpp_of
from slidecascade_convert.library_request import LibraryRequest
from slidecascade_convert.source import SourceFormat
from slidecascade_convert.torch_checkpoints import read_checkpoint, read_safetensors
from slidecascade_convert.torch_export import export_outputs
from slidecascade_convert.torch_failures import failing_as
from slidecascade_convert.torch_networks import fit

_OBJECTS: Final = "It finds objects of {:g} px, here {:.3g} um; those of its training images had {:.3g} px."
_STYLE: Final = "The network adds a mean over the tile with its halo, the style: outlines may differ by tile."
_STRETCHED: Final = (
    "The project's demonstration stretches each map between its own minimum and maximum; here a probability is "
    "the network's."
)
_NOT_RESIZED: Final = (
    "torchvision enlarges an image before its network sees it, by default to a shorter side of 800 px; here the "
    "mpp states the pixels that the network sees."
)
_MOST_DETECTIONS: Final = (
    "It finds at most {} objects in a tile with its halo: ask for smaller tiles of crowded slides."
)
_BATCHES_OF_REGIONS: Final = (1, 2)
_SIZES_OF_REGIONS: Final = ((1, 2), (2, 1))
_EXAMPLE_PX: Final = (128, 192)
_CELLPOSE_PERCENTILES: Final = (1.0, 99.0)
_SMALLEST_CELL_PX: Final = 15
_NUCLEI_DIAMETER_PX: Final = 25.0
"""Cellpose's networks of nuclei were trained on 17 px, those of cells on 30."""

_U2NET_STRIDE_PX: Final = 32
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)


def open_state_dict(request: LibraryRequest, form: SourceFormat) -> LibraryNetwork:
    """The network whose weights are in the request's source.

    Raises:
        InvalidRequestError: the request lacks what the file does not state.
        ConversionError: the file cannot be read without running code, or is no network that is known here.
    """
    weights = (read_safetensors if form is SourceFormat.SAFETENSORS else read_checkpoint)(request.source)
    library = request.library or _recognised(weights)
    if library == "cpnet":
        return _cpnet(request, weights)
    if library == "maskrcnn":
        return _maskrcnn(request, weights)
    return _u2net(request, weights)


def _recognised(weights: Mapping[str, Tensor]) -> str:
    """The library, by the names of the weights."""
    names = [name.removeprefix("module.") for name in weights]
    if any(name.startswith("downsample.down.") for name in names):
        return "cpnet"
    if any(name.startswith("stage1.rebnconvin.") for name in names):
        return "u2net"
    if any(name.startswith("roi_heads.") for name in names):
        return "maskrcnn"
    raise ConversionError(
        "The source is not recognised as the network of a library: state --task, --head and --arch."
    )


class _CpNetOfChannels(nn.Module):
    """A CPnet for as many channels as are served; the others are empty, as Cellpose gives them."""

    def __init__(self, network: cpnet.CpNet, empty: int) -> None:
        super().__init__()
        self.network, self.empty = network, empty

    def forward(self, image: Tensor) -> Tensor:
        missing = [torch.zeros_like(image[:, :1])] * self.empty
        return self.network(torch.cat([image, *missing], dim=1))  # type: ignore[no-any-return]


class _FirstMap(nn.Module):
    """The first of a network's maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)[0]  # type: ignore[no-any-return]


class _OfColours(nn.Module):
    """A network for uint8 RGB ``(N, H, W, 3)``, normalised as in its training."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean, self.deviation = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_DEVIATION)

    def forward(self, image: Tensor) -> Any:
        pixels = (image.float() / 255 - self.mean) / self.deviation
        return self.network(pixels.permute(0, 3, 1, 2))


class _OfGrey(nn.Module):
    """The same for one channel of 0 to 1, which is repeated.

    U2-Net's loader normalises all of them by the first colour's mean, torchvision each by its own.
    """

    def __init__(self, network: nn.Module, colours: int) -> None:
        super().__init__()
        self.network = network
        self.mean, self.deviation = (
            torch.tensor(figures[:colours]).reshape(-1, 1, 1) for figures in (_IMAGENET_MEAN, _IMAGENET_DEVIATION)
        )

    def forward(self, image: Tensor) -> Any:
        return self.network((image.repeat(1, 3, 1, 1) - self.mean) / self.deviation)


def _cpnet(request: LibraryRequest, weights: Mapping[str, Tensor]) -> LibraryNetwork:
    stripped = {name.removeprefix("module."): value for name, value in weights.items()}
    network = cpnet.network_for(stripped)
    # Files of Cellpose's first versions state no diameters.
    stated = {name: stripped[name] for name in ("diam_mean", "diam_labels") if name in stripped}
    if "diam_mean" not in stated:
        raise ConversionError(
            "The weights state no diameter (diam_mean): open them with Cellpose 2 or 3 and save them again."
        )
    notes = fit(network, {"diam_labels": stated["diam_mean"]} | stripped)
    diameter_px = float(network.diam_mean)
    mpp = request.diameter_um / diameter_px if request.diameter_um is not None else mpp_of(request)
    taken = network.channels
    usual = ("nuclear",) if diameter_px < _NUCLEI_DIAMETER_PX else ("cytoplasm",)
    channels = channels_of(request, most=taken, default=usual)
    image = channel_image(
        channels, layout="NCHW", multiple_of=2 ** (network.levels - 1), percentiles=_CELLPOSE_PERCENTILES
    )
    # Cellpose's own thresholds: a logit of 0, a flow error of 0.4, 15 pixels.
    options = FlowsOptions(foreground=0.5, flow_error=0.4, min_area_um2=round(_SMALLEST_CELL_PX * mpp**2, 6))
    module = _CpNetOfChannels(network, taken - len(channels))
    return _library(
        "Cellpose, CPnet",
        module,
        image,
        outputs=FLOWS.outputs(request.classes),
        head=FLOWS.name,
        options=options.model_dump(),
        mpp=mpp,
        object_diameter_px=diameter_px,
        notes=(
            *notes,
            _OBJECTS.format(diameter_px, diameter_px * mpp, float(network.diam_labels)),
            _STYLE,
        ),
    )


def _u2net(request: LibraryRequest, weights: Mapping[str, Tensor]) -> LibraryNetwork:
    stripped = {name.removeprefix("module."): value for name, value in weights.items()}
    network = u2net.network_for(stripped)
    notes = fit(network, stripped)
    channels = channels_of(request, most=3, default=("nuclear",))
    _require_colours_or_one("A U2-Net", channels)
    image = channel_image(channels, layout="NCHW", multiple_of=_U2NET_STRIDE_PX)
    options = SemanticOptions(output=u2net.MAPS[0], foreground=0.5)
    return _library(
        "U2-Net-p" if network.is_small else "U2-Net",
        _OfColours(_FirstMap(network)) if channels == RGB else _OfGrey(_FirstMap(network), 1),
        image,
        outputs=SEMANTIC.outputs_with(request.classes, options),
        head=SEMANTIC.name,
        options=options.model_dump(exclude={"min_area_um2"}),
        mpp=mpp_of(request),
        notes=(
            *notes,
            _STRETCHED,
        ),
    )


def _maskrcnn(request: LibraryRequest, weights: Mapping[str, Tensor]) -> LibraryNetwork:
    current = maskrcnn.with_current_names(weights)
    network = maskrcnn.network_for(current)
    notes = fit(network, current)
    channels = channels_of(request, most=3, default=("nuclear",))
    _require_colours_or_one("torchvision's Mask R-CNN", channels)
    # torchvision's defaults, which its files do not state.
    options = MaskRcnnOptions(
        foreground=maskrcnn.LEAST_SCORE,
        detections=maskrcnn.DETECTIONS,
        mask_px=maskrcnn.MASK_PX,
        overlap=maskrcnn.OVERLAP,
    )
    found = network.classes - 1
    labels = () if found == 1 else (f"It finds {found} classes, of which label 1 is taken: see `label`.",)
    return _library(
        "torchvision, Mask R-CNN",
        _OfColours(network) if channels == RGB else _OfGrey(network, len(RGB)),
        channel_image(channels, layout="NCHW", multiple_of=maskrcnn.STRIDE_PX),
        outputs=MASKRCNN.outputs_with(request.classes, options),
        head=MASKRCNN.name,
        options=options.model_dump(exclude={"min_area_um2", "max_side_um"}),
        mpp=mpp_of(request),
        finds_boxes=True,
        batches=_BATCHES_OF_REGIONS,
        sizes=_SIZES_OF_REGIONS,
        notes=(*notes, *labels, _NOT_RESIZED, _MOST_DETECTIONS.format(maskrcnn.DETECTIONS)),
    )


def _require_colours_or_one(what: str, channels: tuple[str, ...]) -> None:
    if channels != RGB and len(channels) != 1:
        raise ConversionError(
            f"{what} looks at colours or at one channel: give --input-channels red,green,blue or one name."
        )


def _library(title: str, module: nn.Module, image: InputSpec, **fields: Any) -> LibraryNetwork:
    layouts = {output.name: output.layout for output in fields["outputs"]}
    module.eval()

    def predict(images: npt.NDArray[Any]) -> Tensors:
        with failing_as(f"The network does not run on a batch of the shape {images.shape}."), torch.no_grad():
            return _named(module(torch.from_numpy(np.ascontiguousarray(images))), list(layouts))

    def export() -> Any:
        return export_outputs(module, _example(image), layouts, layout=image.layout)

    versions = {name: metadata.version(name) for name in ("torch", "onnx")}
    return LibraryNetwork(title=title, image=image, predict=predict, export=export, versions=versions, **fields)


def _example(image: InputSpec) -> Tensor:
    sizes = {"N": 2, "C": image.channel_count, "H": _EXAMPLE_PX[0], "W": _EXAMPLE_PX[1]}
    return torch.zeros([sizes[axis] for axis in image.layout], dtype=getattr(torch, image.dtype))


def _named(answer: Any, names: Sequence[str]) -> Tensors:
    answers = answer if isinstance(answer, tuple) else (answer,)
    return {name: each.numpy() for name, each in zip(names, answers, strict=True)}
