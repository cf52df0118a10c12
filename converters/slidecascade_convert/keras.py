"""Keras 3 models to served ONNX graphs: uint8 RGB in, normalisation inside, small outputs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slidecascade_convert.tensorflow_graph import onnx_from_function

if TYPE_CHECKING:
    import onnx

# Dimension names of the served tensors by rank: feature maps (N, H, W, C) and class probabilities (N, C).
_DIMENSION_NAMES: dict[int, tuple[str | None, ...]] = {4: ("N", "H", "W", None), 2: ("N", None)}


def onnx_from_keras(
    model: Any,
    *,
    scale: float,
    output_name: str,
    offset: float = 0.0,
    as_bytes: bool = False,
    height_px: int | None = None,
    width_px: int | None = None,
    opset: int = 18,
) -> "onnx.ModelProto":
    """Export a Keras model as a graph that takes uint8 RGB pixels.

    The graph's input ``image`` is uint8 ``(N, H, W, 3)``, RGB, 0 to 255; the model sees float32
    ``image * scale + offset``. ``N`` is always dynamic, and so is a height or width left as None.

    Args:
        model: A Keras model, from float32 ``(N, H, W, 3)`` to ``(N, H, W, C)`` or ``(N, C)``.
        scale: Factor on the pixel values, for example 1/255.
        output_name: Name of the graph's only output.
        offset: Added after the factor, for example -1.0 for networks that want -1 to 1.
        as_bytes: Return ``round(255 * p)`` as uint8 instead of float32 ``p``; the outputs must lie in 0 to 1.
        height_px: Fixed input height in pixels, None when any multiple of the network's stride will do.
        width_px: Fixed input width in pixels, or None.
        opset: ONNX operator set version.

    Raises:
        ValueError: The model has more than one output, or an output of another rank than 2 or 4.
    """
    import tensorflow as tf

    if len(model.outputs) != 1:
        raise ValueError(
            f"The model has {len(model.outputs)} outputs; export a model with one output, "
            "or join the maps along the channel axis."
        )

    signature = [tf.TensorSpec((None, height_px, width_px, 3), tf.uint8, name="image")]
    served = _served(model, scale, offset, as_bytes=as_bytes)
    function = tf.function(served, input_signature=signature)
    graph_model = onnx_from_function(function, signature, opset=opset)
    _rename_tensor(graph_model, graph_model.graph.input[0].name, "image")
    _rename_tensor(graph_model, graph_model.graph.output[0].name, output_name)
    _name_dimensions(graph_model.graph.input[0])
    _name_dimensions(graph_model.graph.output[0])
    return graph_model


def _served(model: Any, scale: float, offset: float, *, as_bytes: bool) -> Callable[[Any], Any]:
    """The model from uint8 pixels to the returned outputs."""
    import tensorflow as tf

    def served(image: Any) -> Any:
        outputs = model(tf.cast(image, tf.float32) * scale + offset, training=False)
        if not as_bytes:
            return outputs
        # Clipping guards the cast: an unbounded output would wrap around instead of saturating.
        return tf.cast(tf.round(255.0 * tf.clip_by_value(outputs, 0.0, 1.0)), tf.uint8)

    return served


def _rename_tensor(graph_model: "onnx.ModelProto", old: str, new: str) -> None:
    """Rename a tensor wherever the graph mentions it."""
    graph = graph_model.graph
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _name_dimensions(value: "onnx.ValueInfoProto") -> None:
    """Name the unknown dimensions of a graph input or output N, H and W."""
    dimensions = value.type.tensor_type.shape.dim
    names = _DIMENSION_NAMES.get(len(dimensions))
    if names is None:
        raise ValueError(
            f"Tensor '{value.name}' has {len(dimensions)} dimensions; "
            "a served tensor has the shape (N, H, W, C) or (N, C)."
        )
    for dimension, name in zip(dimensions, names, strict=True):
        if name is not None and not dimension.dim_value:
            dimension.dim_param = name
