"""The Keras layers and operations that are rebuilt from a file. What is not listed is refused.

A list of what is allowed, not of what is forbidden: some layers run code or read files when they are built
(Lambda, TFSMLayer, StringLookup with a vocabulary file), and new ones appear with every release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MODELS: Final[Mapping[str, tuple[str, str]]] = {
    "Functional": ("keras.src.models.functional", "Functional"),
    "Model": ("keras.src.models.functional", "Functional"),
    "Sequential": ("keras", "Sequential"),
}
"""Class name in a file to Keras 3 module and class."""

LAYERS: Final = frozenset({
    "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
    "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dot", "Dropout", "ELU", "Flatten",
    "GaussianDropout", "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization",
    "InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "PReLU",
    "Permute", "ReLU", "RepeatVector", "Rescaling", "Reshape", "SeparableConv2D", "Softmax", "SpatialDropout2D",
    "Subtract", "UpSampling2D", "ZeroPadding2D",
})  # fmt: skip

OPERATIONS: Final[Mapping[str, str]] = {
    "Divide": "keras.src.ops.numpy",
    "TrueDivide": "keras.src.ops.numpy",
    "DepthToSpace": "keras.src.ops.nn",
    "Relu": "keras.src.ops.nn",
    "Sigmoid": "keras.src.ops.nn",
    "Tanh": "keras.src.ops.numpy",
}
"""Operation in a functional Keras 3 model to its module; the four of arithmetic share names with layers."""

ARITHMETIC: Final = frozenset({"Add", "Subtract", "Multiply"})
"""Names of a layer and of an operation; the file's module tells them apart."""

ACTIVATIONS: Final = frozenset({
    "elu", "exponential", "gelu", "hard_sigmoid", "leaky_relu", "linear", "mish", "relu", "relu6", "selu",
    "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh",
})  # fmt: skip

RESCALING_OPERATIONS: Final[Mapping[str, str]] = {
    "math.truediv": "divide",
    "math.divide": "divide",
    "math.multiply": "multiply",
    "math.subtract": "subtract",
    "math.add": "add",
    "__operators__.add": "add",
}
"""Functions of a tf_keras TFOpLambda layer that are a Rescaling when their other argument is a number."""
