"""The Keras layers and operations that are rebuilt from a file. Others are rejected.

An allowlist, not a blocklist: some layers run code or read files when they are built
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
    "Activation", "ActivityRegularization", "AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D", "Add",
    "AdditiveAttention", "AlphaDropout", "Attention", "Average", "AveragePooling1D", "AveragePooling2D",
    "BatchNormalization", "Concatenate", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Cropping1D",
    "Cropping2D", "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "Dot", "Dropout", "EinsumDense", "ELU", "Flatten",
    "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D", "GroupNormalization", "GroupQueryAttention", "Identity", "InputLayer",
    "LayerNormalization", "LeakyReLU", "MaxPooling1D", "MaxPooling2D", "Maximum", "Minimum", "MultiHeadAttention",
    "Multiply", "Normalization", "PReLU", "Permute", "RMSNormalization", "ReLU", "RepeatVector", "Rescaling",
    "Resizing", "Reshape", "SeparableConv1D", "SeparableConv2D", "Softmax", "SpatialDropout1D", "SpatialDropout2D",
    "Subtract", "UnitNormalization", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
})  # fmt: skip

APPLICATION_LAYERS: Final[Mapping[str, str]] = {
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
    "LayerScale": "keras.src.applications.convnext",
    "StochasticDepth": "keras.src.applications.convnext",
}
"""Layers that networks of ``keras.applications`` bring along, with their module; they are Keras's own code."""

AUGMENTATIONS: Final = frozenset({
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
    "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom",
})  # fmt: skip
"""Layers that change images only in training, and return their inputs otherwise."""

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
"""Names of both a layer and an operation, distinguished by the module in the file."""

ACTIVATIONS: Final = frozenset({
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax",
    "squareplus", "swish", "tanh", "tanh_shrink",
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
