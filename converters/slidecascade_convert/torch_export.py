"""PyTorch networks to ONNX graphs with open batch, height and width.

Modules and exported programs go through ``torch.onnx.export(dynamo=True)``: its sizes are symbols, so that a
Python ``int`` of a shape stays one, where a trace would freeze it. TorchScript goes through the older exporter,
the only one that takes it; so does a module that torch.export cannot capture. Whether a size froze all the same is
found out by the comparison with the original.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from slidecascade.errors import ConversionError
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.torch_failures import failing_as

if TYPE_CHECKING:
    import onnx

OPSET: Final = 18
_PIXELS, _ANSWER = "pixels", "answer"

# Two images, and no two sizes alike, or the exporter would take them for the same.
_BATCH, _HEIGHT_PX, _WIDTH_PX = 2, 128, 192
_CANNOT: Final = "The network cannot be exported to ONNX: give it as an ONNX file that its author's code exports."


def export_module(module: nn.Module, request: ConversionRequest, *, channels: int = 3) -> onnx.ModelProto:
    """The graph of `module`, which takes float32 ``(N, channels, H, W)``.

    Raises:
        ConversionError: when neither exporter can.
    """
    example = _example(request, channels)
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {0: dynamic, 2: dynamic, 3: dynamic} if request.task == "segment" else {0: dynamic}
    try:
        with failing_as(_CANNOT):
            return _from_dynamo(module, (example,), dynamic_shapes=(sizes,))
    except ConversionError as error:
        try:
            return export_traced(module, request, channels=channels)
        except ConversionError:
            raise error from None


def export_traced(module: nn.Module, request: ConversionRequest, *, channels: int = 3) -> onnx.ModelProto:
    """The graph of a TorchScript `module`, or of another one's trace.

    Raises:
        ConversionError: when the exporter does not support one of its operations.
    """
    import onnx

    axes = {_PIXELS: {0: "N", 2: "H", 3: "W"}} if request.task == "segment" else {_PIXELS: {0: "N"}}
    with failing_as(_CANNOT), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "traced.onnx")
        torch.onnx.export(
            _frozen(module) if isinstance(module, torch.jit.ScriptModule) else module,
            (_example(request, channels),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[_PIXELS],
            output_names=[_ANSWER],
            dynamic_axes=axes | {_ANSWER: {0: "N"}},
        )
        return _anonymous(onnx.load_model(path))


def export_outputs(
    module: nn.Module, image: torch.Tensor, outputs: Mapping[str, str], *, layout: str
) -> onnx.ModelProto:
    """The graph of a `module` that takes ``image`` and returns `outputs`.

    Args:
        module: of one argument; returns a tensor, or a tuple of as many as there are `outputs`.
        image: an example; all of its sizes but C are left open.
        outputs: layouts by name, in order.
        layout: of `image`.

    Raises:
        ConversionError: when the exporter does not support one of its operations.
    """
    import onnx

    axes = {"image": layout, **outputs}
    with failing_as(_CANNOT), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "traced.onnx")
        torch.onnx.export(
            module,
            (image,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(outputs),
            dynamic_axes={
                name: {index: axis for index, axis in enumerate(order) if axis not in "CK"}
                for name, order in axes.items()
            },
        )
        return _anonymous(onnx.load_model(path))


def export_program(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    """The graph of an exported `program`.

    Raises:
        ConversionError: when the exporter does not support one of its operations.
    """
    with failing_as(_CANNOT):
        return _from_dynamo(program, ())


def _from_dynamo(source: Any, example: tuple[torch.Tensor, ...], **shapes: Any) -> onnx.ModelProto:
    # It reports missing packages and skipped optimisations.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    program = torch.onnx.export(
        source,
        example,
        dynamo=True,
        opset_version=OPSET,
        input_names=[_PIXELS],
        output_names=[_ANSWER],
        verbose=False,
        **shapes,
    )
    if program is None:
        raise ConversionError(_CANNOT)
    return _anonymous(program.model_proto)


def _frozen(script: torch.jit.ScriptModule) -> Any:
    """`script` without branches that inference never takes: the exporter fails on argument checks."""
    try:
        return torch.jit.freeze(script)
    except RuntimeError:
        return script


def _example(request: ConversionRequest, channels: int) -> torch.Tensor:
    if request.task == "classify" and request.input_px is not None:
        return torch.zeros(_BATCH, channels, request.input_px, request.input_px)
    return torch.zeros(_BATCH, channels, _HEIGHT_PX, _WIDTH_PX)


def _anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes: they hold paths of this machine and made-up names of sizes."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for part in (model.graph, *model.functions):
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    return model
