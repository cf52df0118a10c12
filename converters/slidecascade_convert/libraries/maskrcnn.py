"""torchvision's ``maskrcnn_resnet50_fpn`` (He et al. 2017): ResNet-50, feature pyramid, regions and masks.

Parameters are named as torchvision saves them; names of its first versions are translated. All images of a batch
are computed at once, with as many proposals and detections as torchvision keeps at most; those missing are empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidecascade.errors import ConversionError
from slidecascade_convert.libraries.regions import aligned, clipped, kept, moved

DETECTIONS: Final = 100
LEAST_SCORE: Final = 0.05
OVERLAP: Final = 0.5
MASK_PX: Final = 28
STRIDE_PX: Final = 64
"""Of the coarsest map of the pyramid."""

_PROPOSALS, _PROPOSAL_OVERLAP = 1000, 0.7
_LEAST_PROPOSAL_PX, _LEAST_DETECTION_PX = 1e-3, 1e-2
_ANCHOR_PX: Final = (32, 64, 128, 256, 512)
_RATIOS: Final = (0.5, 1.0, 2.0)
_STRIDES: Final = (4, 8, 16, 32, 64)
_BOX_SIDE, _MASK_SIDE = 7, 14
_USUAL_PX, _USUAL_LEVEL = 224, 2
_WIDTH: Final = 256
_BLOCKS: Final = ((3, 64), (4, 128), (6, 256), (3, 512))
_EXPANSION: Final = 4
_SCORE = "roi_heads.box_predictor.cls_score.weight"
_FIRST: Final = "backbone.body.layer1.0.conv1.weight"
_OTHER_FORM: Final = "rpn.head.conv.1.0.weight"
_OLD_NAMES: Final = (
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), r"\1.0.0.\2"),
    *(
        (re.compile(rf"(mask_head)\.mask_fcn{index + 1}\.(weight|bias)"), rf"\1.{index}.0.\2")
        for index in range(4)
    ),
)
"""Of torchvision before 0.14, which its published files have."""


class _Frozen(nn.Module):
    """Batch normalisation by stored figures."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(width))

    def forward(self, value: Tensor) -> Tensor:
        return functional.batch_norm(value, self.running_mean, self.running_var, self.weight, self.bias)


def _plain(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class _Bottleneck(nn.Module):
    """Three convolutions around which the input is added."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1, self.bn1 = _plain(inputs, width, 1), _Frozen(width)
        self.conv2, self.bn2 = _plain(width, width, 3, stride), _Frozen(width)
        self.conv3, self.bn3 = _plain(width, outputs, 1), _Frozen(outputs)
        is_first = inputs != outputs or stride > 1
        self.downsample = (
            nn.Sequential(_plain(inputs, outputs, 1, stride), _Frozen(outputs)) if is_first else nn.Identity()
        )

    def forward(self, image: Tensor) -> Tensor:
        value = functional.relu(self.bn1(self.conv1(image)))
        value = functional.relu(self.bn2(self.conv2(value)))
        return functional.relu(self.bn3(self.conv3(value)) + self.downsample(image))


class _Pyramid(nn.Module):
    """``(N, 3, H, W)`` to five maps of 256 channels at `_STRIDES`."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), "bn1": _Frozen(64)})
        inputs = 64
        for index, (count, width) in enumerate(_BLOCKS, start=1):
            blocks = []
            for position in range(count):
                blocks.append(_Bottleneck(inputs, width, 2 if index > 1 and position == 0 else 1))
                inputs = width * _EXPANSION
            body[f"layer{index}"] = nn.Sequential(*blocks)
        self.body = body
        widths = [width * _EXPANSION for _, width in _BLOCKS]
        inner = nn.ModuleList(nn.Sequential(nn.Conv2d(width, _WIDTH, 1)) for width in widths)
        layer = nn.ModuleList(nn.Sequential(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)) for _ in widths)
        self.fpn = nn.ModuleDict({"inner_blocks": inner, "layer_blocks": layer})

    def forward(self, image: Tensor) -> list[Tensor]:
        value = functional.relu(self.body["bn1"](self.body["conv1"](image)))
        value = functional.max_pool2d(value, 3, 2, padding=1)
        maps: list[Tensor] = []
        for index in range(1, len(_BLOCKS) + 1):
            value = self.body[f"layer{index}"](value)
            maps.append(value)
        inner, layer = (list(blocks.children()) for blocks in self.fpn.children())
        value = inner[-1](maps[-1])
        found = [layer[-1](value)]
        for index in range(len(maps) - 2, -1, -1):
            value = inner[index](maps[index]) + functional.interpolate(value, scale_factor=2.0, mode="nearest")
            found.insert(0, layer[index](value))
        return [*found, functional.max_pool2d(found[-1], 1, 2)]


class MaskRcnn(nn.Module):
    """``(N, 3, H, W)`` to boxes ``(N, 100, 4)``, scores and labels ``(N, 100)``, masks ``(N, 100, 28, 28)``.

    Heights and widths are multiples of 64. Detections of an image are those of the highest score first; unused
    ones are zeros.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = _Pyramid()
        convolution = nn.Sequential(nn.Sequential(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)))
        ratios = len(_RATIOS)
        head = {"conv": convolution, "cls_logits": nn.Conv2d(_WIDTH, ratios, 1),
                "bbox_pred": nn.Conv2d(_WIDTH, 4 * ratios, 1)}  # fmt: skip
        self.rpn = nn.ModuleDict({"head": nn.ModuleDict(head)})
        box = {"fc6": nn.Linear(_WIDTH * _BOX_SIDE**2, 1024), "fc7": nn.Linear(1024, 1024)}
        predictor = {"cls_score": nn.Linear(1024, classes), "bbox_pred": nn.Linear(1024, 4 * classes)}
        mask = [nn.Sequential(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)) for _ in range(4)]
        last = {"conv5_mask": nn.ConvTranspose2d(_WIDTH, _WIDTH, 2, 2),
                "mask_fcn_logits": nn.Conv2d(_WIDTH, classes, 1)}  # fmt: skip
        self.roi_heads = nn.ModuleDict(
            {
                "box_head": nn.ModuleDict(box),
                "box_predictor": nn.ModuleDict(predictor),
                "mask_head": nn.Sequential(*mask),
                "mask_predictor": nn.ModuleDict(last),
            }
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.backbone(image)
        proposals, is_one = self._proposals(maps, image)
        boxes, scores, labels = self._detections(maps, proposals, is_one, image)
        return boxes, scores, labels, self._masks(maps, boxes, scores, labels)

    def _proposals(self, maps: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(N, 1000, 4)`` that may hold an object, and which of them are proposed ``(N, 1000)``."""
        head: Any = self.rpn["head"]  # a dictionary of modules, as the next ones
        boxes, scores = [], []
        for index, features in enumerate(maps):
            value = functional.relu(head["conv"](features))
            logits = head["cls_logits"](value).permute(0, 2, 3, 1).flatten(1)
            steps = head["bbox_pred"](value).permute(0, 2, 3, 1).reshape(image.shape[0], -1, 4)
            # Empty ones, so that each level has as many.
            logits = functional.pad(logits, (0, _PROPOSALS), value=float("-inf"))
            best, places = logits.topk(_PROPOSALS)
            steps = functional.pad(steps, (0, 0, 0, _PROPOSALS))
            anchors = functional.pad(_anchors(features, index), (0, 0, 0, _PROPOSALS))
            chosen = moved(anchors[places], _picked(steps, places), (1.0, 1.0))
            chosen = clipped(chosen, image.shape[2], image.shape[3])
            boxes.append(chosen)
            scores.append(best.sigmoid() * _is_larger(chosen, _LEAST_PROPOSAL_PX))
        every, score = torch.stack(boxes, dim=1), torch.stack(scores, dim=1)
        score = kept(
            every.flatten(0, 1), score.flatten(0, 1), overlap=_PROPOSAL_OVERLAP, most=_PROPOSALS, least=0.0
        )
        best, places = score.reshape(image.shape[0], -1).topk(_PROPOSALS)
        return _picked(every.flatten(1, 2), places), best > 0

    def _detections(
        self, maps: Sequence[Tensor], proposals: Tensor, is_one: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``(N, 100, 4)``, scores and labels ``(N, 100)``."""
        features, places = _features(maps, proposals, is_one, _BOX_SIDE)
        head: Any = self.roi_heads["box_head"]
        predictor: Any = self.roi_heads["box_predictor"]
        value = functional.relu(head["fc6"](features.flatten(1)))
        value = functional.relu(head["fc7"](value))
        chances = predictor["cls_score"](value).softmax(dim=-1)[:, 1:]
        steps = predictor["bbox_pred"](value).reshape(-1, self.classes, 4)[:, 1:]
        boxes = moved(proposals.flatten(0, 1)[places][:, None], steps, (10.0, 5.0))
        boxes = clipped(boxes, image.shape[2], image.shape[3])
        # By class, then by proposal.
        count = self.classes - 1
        every = _put(proposals, places, boxes).reshape(image.shape[0], -1, count, 4).transpose(1, 2)
        score = _put(proposals, places, chances * _is_larger(boxes, _LEAST_DETECTION_PX))
        score = score.reshape(image.shape[0], -1, count).transpose(1, 2)
        score = kept(every.flatten(0, 1), score.flatten(0, 1), overlap=OVERLAP, most=DETECTIONS, least=LEAST_SCORE)
        best, found = score.reshape(image.shape[0], -1).topk(DETECTIONS)
        is_found = best > 0
        return (
            _picked(every.flatten(1, 2), found) * is_found[..., None],
            best,
            (torch.div(found, _PROPOSALS, rounding_mode="floor") + 1) * is_found,
        )

    def _masks(self, maps: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        features, places = _features(maps, boxes, scores > 0, _MASK_SIDE)
        for layer in self.roi_heads["mask_head"].children():
            features = functional.relu(layer(features))
        predictor: Any = self.roi_heads["mask_predictor"]
        features = functional.relu(predictor["conv5_mask"](features))
        every = predictor["mask_fcn_logits"](features).sigmoid()
        chosen = labels.flatten()[places][:, None, None, None].expand(-1, 1, MASK_PX, MASK_PX)
        return _put(boxes, places, every.gather(1, chosen)).reshape(*scores.shape, MASK_PX, MASK_PX)


def network_for(weights: Mapping[str, Tensor]) -> MaskRcnn:
    """The untrained network that `weights` are for.

    Raises:
        ConversionError: they are those of another network.
    """
    if _OTHER_FORM in weights or _FIRST not in weights or weights.get(_SCORE, torch.zeros(0)).ndim != 2:
        raise ConversionError(
            "The source holds no maskrcnn_resnet50_fpn of torchvision (its `_v2` is another network): export it "
            "as ONNX with the outputs boxes, scores, labels and masks."
        )
    return MaskRcnn(weights[_SCORE].shape[0])


def with_current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` by the names of torchvision since 0.14, without counters."""
    found = {}
    for name, value in weights.items():
        current = name.removeprefix("module.")
        for pattern, replacement in _OLD_NAMES:
            current = pattern.sub(replacement, current)
        if not current.endswith("num_batches_tracked"):
            found[current] = value
    return found


def _anchors(features: Tensor, index: int) -> Tensor:
    """``(H * W * 3, 4)`` boxes around the pixels of a level."""
    ratios = torch.tensor(_RATIOS).sqrt()
    sides = torch.stack([_ANCHOR_PX[index] / ratios, _ANCHOR_PX[index] * ratios], dim=1)
    cells = (torch.cat([-sides, sides], dim=1) / 2).round()
    stride = _STRIDES[index]
    rows = torch.arange(features.shape[2]) * stride
    columns = torch.arange(features.shape[3]) * stride
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + cells).reshape(-1, 4)


def _features(maps: Sequence[Tensor], boxes: Tensor, is_one: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Features in those `boxes` ``(N, K, 4)`` that are one, by level, and their places in ``N * K``."""
    sizes = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sqrt()
    levels = (_USUAL_LEVEL + torch.log2(sizes / _USUAL_PX) + 1e-6).floor().clamp(0, len(_BLOCKS) - 1).flatten()
    images = torch.arange(boxes.shape[0])[:, None].expand(-1, boxes.shape[1]).flatten()
    flat = boxes.flatten(0, 1)
    parts, places = [], []
    for level, stride in enumerate(_STRIDES[: len(_BLOCKS)]):
        (place,) = torch.where((levels == level) & is_one.flatten())
        places.append(place)
        parts.append(aligned(maps[level], flat[place], images[place], side=side, stride=stride))
    return torch.cat(parts), torch.cat(places)


def _is_larger(boxes: Tensor, side_px: float) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] >= side_px).all(dim=-1)


def _picked(values: Tensor, places: Tensor) -> Tensor:
    """``(N, K, 4)`` of `values` ``(N, M, 4)`` at `places` ``(N, K)``."""
    return values.gather(1, places[..., None].expand(-1, -1, 4))


def _put(like: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """`values` ``(S, K, ...)`` at `places` ``(S,)`` of rows of zeros ``(N, M * K, ...)``; N and M are `like`'s."""
    rows = torch.zeros_like(like[..., 0]).flatten()
    empty = rows.reshape(-1, *[1] * (values.ndim - 1)).expand(-1, *values.shape[1:])
    return empty.index_put((places,), values).reshape(like.shape[0], -1, *values.shape[2:])
