"""TensorFlow functions as ONNX graphs, operator by operator, without tf2onnx's optimisation.

tf2onnx ends an export with a dozen optimizers. Its transpose optimizer walks sets of node objects, whose order
follows their addresses in memory; on some of those orders its reshape optimizer puts the Squeeze that belongs to a
reshaped map behind the graph's output, where nothing reads it, and the same network comes out with an axis too
many about once in fifty exports. ONNX Runtime folds the same constants and moves the same transpositions when it
opens a graph, so that the translation alone is what is kept: it is the same every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from slidecascade.privacy import forbid_telemetry

if TYPE_CHECKING:
    import onnx

OPSET: Final = 18

_SPELLED_OUT: Final = {"Erfc": "Erf", "Expm1": "Exp"}


def translated_operators() -> frozenset[str]:
    """TensorFlow's operators that have an ONNX form."""
    from tf2onnx import tfonnx  # noqa: F401 - fills the register
    from tf2onnx.handler import tf_op

    return frozenset(name for versions in tf_op.get_opsets().values() for version in versions for name in version)


def onnx_from_function(function: Any, signature: Sequence[Any], *, opset: int) -> onnx.ModelProto:
    """The ONNX graph of a `tf.function`, tensors named by TensorFlow, without notes on inner shapes.

    Args:
        function: a `tf.function` whose variables are constants of the graph.
        signature: one `tf.TensorSpec` per argument.
        opset: ONNX operator set version.
    """
    forbid_telemetry()  # tf2onnx imports ONNX Runtime for some operators
    import tensorflow as tf
    from tf2onnx import tf_loader
    from tf2onnx.tfonnx import process_tf_graph

    concrete = function.get_concrete_function(*signature)
    own = len(concrete.inputs) - len(concrete.captured_inputs)
    names = [tensor.op.name for tensor in concrete.inputs[own:]]
    captured = dict(zip(names, concrete.captured_inputs, strict=True))
    inputs = [tensor.name for tensor in concrete.inputs if tensor.op.name not in captured]
    outputs = [tensor.name for tensor in concrete.outputs]
    with tf.device("/cpu:0"):
        frozen = tf_loader.from_function(concrete, inputs, outputs)
        _fix_constants(frozen, captured)
        with tf.Graph().as_default() as frozen_graph:
            tf.import_graph_def(frozen, name="")
            # An operator that is not translated stays as it is; whoever opens the graph names it.
            translated = process_tf_graph(
                frozen_graph, continue_on_error=True, opset=opset, input_names=inputs, output_names=outputs
            )
    translated.update_proto()
    translated.delete_unused_nodes(translated.outputs)
    translated.topological_sort(translated.get_nodes())
    model: onnx.ModelProto = translated.make_model("converted from TensorFlow")
    _spell_out(model)
    # Inner shape notes carry made-up dimension names; the runtime infers its own.
    del model.graph.value_info[:]
    return model


def _fix_constants(frozen: Any, captured: Mapping[str, Any]) -> None:
    """Make constants of the tensors that a function captured, which freezing its variables leaves as inputs."""
    import tensorflow as tf

    for node in frozen.node:
        value = captured.get(node.name)
        if node.op == "Placeholder" and value is not None and value.dtype != tf.dtypes.resource:
            tensor = tf.make_tensor_proto(value.numpy(), dtype=value.dtype)
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = value.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tensor)


def _spell_out(model: onnx.ModelProto) -> None:
    """Two functions that tf2onnx leaves as they are, by those that ONNX has: ``erfc`` (of the exact gelu) as
    ``1 - erf``, and ``expm1`` (of celu) as ``exp - 1``."""
    from onnx import helper

    nodes = []
    for node in model.graph.node:
        if node.op_type not in _SPELLED_OUT:
            nodes.append(node)
            continue
        (result,) = node.output
        one, inner = f"{result}/one", f"{result}/inner"
        value = helper.make_tensor(one, 1, [], [1.0])
        order = [one, inner] if node.op_type == "Erfc" else [inner, one]
        nodes.append(helper.make_node("Constant", [], [one], name=one, value=value))
        nodes.append(helper.make_node(_SPELLED_OUT[node.op_type], list(node.input), [inner], name=inner))
        nodes.append(helper.make_node("Sub", order, [result], name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
