"""SavedModels: their graph is checked before TensorFlow loads it, and only the serving function ever runs.

A SavedModel is a program. What TensorFlow runs by itself when it loads one (tables, resources, savers of their
own) is refused, and so is a serving function with any operator that is not plain arithmetic on tensors: those that
read or write files, call Python or speak to other machines have no ONNX, and what has no ONNX is not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.original import Facts, Original, image_shape
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.tensorflow_graph import OPSET, onnx_from_function, translated_operators

if TYPE_CHECKING:
    import onnx

SERVING: Final = "serving_default"
_MAX_GRAPH_BYTES: Final = 256 * 2**20

# Objects that are data or names of functions; the others (assets, tables, other resources) act when loaded.
_INERT: Final = frozenset({"variable", "user_object", "function", "bare_concrete_function", "constant"})

# Calls of other functions of the same graph, which are checked as well, and reading a variable.
_CALLS: Final = frozenset({"StatefulPartitionedCall", "PartitionedCall"})
_READS: Final = frozenset({"ReadVariableOp", "DisableCopyOnRead", "NoOp"})

# tf2onnx supports these only within patterns that it rewrites; otherwise they have state.
_STATEFUL: Final = frozenset({
    "FIFOQueueV2", "HashTableV2", "LookupTableFindV2", "LookupTableSizeV2", "QueueDequeueManyV2",
    "QueueDequeueUpToV2", "QueueDequeueV2",
})  # fmt: skip


def open_saved_model(request: ConversionRequest) -> Original:
    """The serving function of the SavedModel in the request's source.

    Raises:
        ConversionError: when it is damaged, runs anything when it is loaded, or does not serve one RGB image.
    """
    loaded = load_checked(request.source)
    return _SavedOriginal(loaded, loaded.signatures[SERVING])


def load_checked(folder: Path) -> Any:
    """The SavedModel in `folder`, loaded by TensorFlow once it was found to do nothing but compute.

    Raises:
        ConversionError: it does more, or is damaged.
    """
    import tensorflow as tf

    check_saved_model(folder)
    try:
        return tf.saved_model.load(str(folder))
    except (ValueError, KeyError, OSError, AttributeError, tf.errors.OpError) as error:
        raise ConversionError("The SavedModel cannot be loaded: copy the whole folder again.") from error


def check_saved_model(folder: Path) -> None:
    """Refuse a SavedModel that would do anything but compute.

    Raises:
        ConversionError: naming what it would do.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    if path.stat().st_size > _MAX_GRAPH_BYTES:
        raise ConversionError("The SavedModel's graph has more than 256 MiB: save it with its weights apart.")
    try:
        saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise ConversionError("The SavedModel is damaged: copy the whole folder again.") from error
    graphs = [each for each in saved.meta_graphs if SERVING in each.signature_def]
    if len(saved.meta_graphs) != 1 or not graphs:
        raise ConversionError(f"The SavedModel has no signature {SERVING!r}: export it with model.export.")
    if not graphs[0].HasField("object_graph_def"):
        raise ConversionError("The SavedModel is of TensorFlow 1: convert it with tf2onnx and give the ONNX file.")
    _check_objects(graphs[0])
    _check_operators(graphs[0])


def _check_objects(graph: Any) -> None:
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind not in _INERT or node.saveable_objects:
            raise ConversionError(
                f"The SavedModel holds a {kind or 'nameless object'}, which acts when it is loaded: save the "
                "model as .keras or .h5, or convert it with tf2onnx."
            )


def _check_operators(graph: Any) -> None:
    """Every operator of the serving function and the functions it calls."""
    functions = {each.signature.name: each.node_def for each in graph.graph_def.library.function}
    allowed = (translated_operators() - _STATEFUL) | _READS | _CALLS
    seen: set[str] = set()
    left = _serving_functions(graph)
    while left:
        name = left.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name]:
            if node.op not in allowed:
                raise ConversionError(
                    f"The SavedModel's graph has the operator {node.op}, which does more than compute: save the "
                    "model as .keras or .h5, or convert it with tf2onnx."
                )
            left.extend(_called(node))


def _serving_functions(graph: Any) -> list[str]:
    """The function that the serving signature is bound to.

    A SavedModel of Keras 2 also holds each layer's training step, which assigns to variables; loading runs none.
    """
    nodes = graph.object_graph_def.nodes
    signatures = _child(nodes, nodes[0], "signatures")
    serving = None if signatures is None else _child(nodes, signatures, SERVING)
    if serving is None or serving.WhichOneof("kind") != "bare_concrete_function":
        raise ConversionError("The SavedModel's signatures are damaged: save the model again.")
    return [serving.bare_concrete_function.concrete_function_name]


def _child(nodes: Any, parent: Any, name: str) -> Any:
    """The object that `parent` calls `name`, or None."""
    found = [child.node_id for child in parent.children if child.local_name == name]
    return nodes[found[0]] if found and 0 <= found[0] < len(nodes) else None


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (each.name for each in value.list.func)


class _SavedOriginal:
    def __init__(self, loaded: Any, function: Any) -> None:
        inputs = function.structured_input_signature[1]
        if len(inputs) != 1 or len(function.structured_outputs) != 1:
            raise ConversionError(
                f"The SavedModel serves {len(inputs)} inputs and {len(function.structured_outputs)} outputs: "
                "export one image input and one output."
            )
        ((self._argument, self._spec),) = inputs.items()
        shape = None if self._spec.shape.rank is None else list(self._spec.shape)
        image = image_shape("The SavedModel's input", shape)
        batch = None if shape is None else shape[0]
        if batch not in (None, 1):
            raise ConversionError(f"The SavedModel serves batches of {batch}: export it with a dynamic batch.")
        # Its variables live as long as it does.
        self._loaded, self._function = loaded, function
        self.facts = Facts(
            layout=image.layout,
            height_px=image.height_px,
            width_px=image.width_px,
            is_grey=image.is_grey,
            batch=batch,
            takes_bytes=self._spec.dtype.as_numpy_dtype == np.uint8,
            versions={name: metadata.version(name) for name in ("tensorflow", "tf2onnx")},
        )

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.facts.batch is None:
            return np.asarray(self._answer(pixels), np.float32)
        return np.concatenate([np.asarray(self._answer(each[None]), np.float32) for each in pixels])

    def export(self) -> onnx.ModelProto:
        import tensorflow as tf

        shape = [self.facts.batch, *self._spec.shape[1:]]
        signature = [tf.TensorSpec(shape, self._spec.dtype, name="pixels")]
        return onnx_from_function(tf.function(self._answer, input_signature=signature), signature, opset=OPSET)

    def _answer(self, pixels: Any) -> Any:
        import tensorflow as tf

        (answer,) = self._function(**{self._argument: tf.cast(pixels, self._spec.dtype)}).values()
        return answer
