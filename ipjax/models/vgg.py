"""VGG 11, 13, 16 and 19, with and without batch normalisation, in Flax NNX, layer for layer torchvision's.

Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (arXiv:1409.1556). Modules
stand in two lists numbered as torchvision's, so that layers carry its names (`features.29`, `classifier.3`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from ipjax.models.convolution import convolution, max_pool
from ipjax.taps import Network, Tap, from_tapping_module

CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
ARCHITECTURES = tuple(f"{name}{ending}" for name in CONVOLUTIONS for ending in ("", "_bn"))
POOLED = 7  # rows and columns that the classifier sees of any image
SMALLEST = 2 ** len(CONVOLUTIONS["vgg11"])  # pixels a side: each stage halves


def vgg(name: str, *, width: int = 64, hidden: int = 4096, num_classes: int = 1000, rngs: nnx.Rngs) -> VGG:
    """A randomly initialised VGG (He et al. initialisation, also of the dense layers, so that narrow ones train too).

    **Arguments:**

    - `name`: one of `ARCHITECTURES`; `_bn` stands for batch normalisation.
    - `width`: channels of the first stage; 64 in the paper. They double until the fourth.
    - `hidden`: units of the two hidden dense layers; 4096 in the paper.
    """
    if name not in ARCHITECTURES:
        raise KeyError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {name!r}")
    return VGG(name, width=width, hidden=hidden, num_classes=num_classes, rngs=rngs)


def as_network(model: VGG) -> Network:
    """The model in evaluation mode as a `Network`; default layers: every ReLU and every pooling."""
    layers = [
        f"{part}.{i}"
        for part in ("features", "classifier")
        for i, module in enumerate(getattr(model, part))
        if isinstance(module, ReLU | MaxPool)
    ]
    return from_tapping_module(model, layers, input_shape=(None, None, 3))


class VGG(nnx.Module):
    """`model(x, tap)`: x [batch, height, width, 3], of at least 32 x 32 pixels, to logits [batch, num_classes].

    In training mode the dropout of the classifier draws from `rngs`.
    """

    def __init__(self, name: str, *, width: int, hidden: int, num_classes: int, rngs: nnx.Rngs):
        self.name = name
        modules, channels = [], 3
        for stage, depth in enumerate(CONVOLUTIONS[name.removesuffix("_bn")]):
            for _ in range(depth):
                features = width * min(2**stage, 8)
                modules.append(_conv(channels, features, rngs))
                if name.endswith("_bn"):
                    modules.append(nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs))
                modules.append(ReLU())
                channels = features
            modules.append(MaxPool())
        self.features = nnx.List(modules)
        self.classifier = nnx.List(
            [
                _dense(channels * POOLED**2, hidden, rngs),
                ReLU(),
                nnx.Dropout(0.5),
                _dense(hidden, hidden, rngs),
                ReLU(),
                nnx.Dropout(0.5),
                _dense(hidden, num_classes, rngs),
            ]
        )

    def __call__(
        self, x: Float[Array, "batch h w 3"], tap: Tap = lambda name, value: value, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(f"x: expected images of at least {SMALLEST} x {SMALLEST} pixels, got shape {list(x.shape)}")
        for i, module in enumerate(self.features):
            x = tap(f"features.{i}", module(x))
        x = tap("avgpool", _adaptive_mean(x))
        x = x.reshape(len(x), -1)
        for i, module in enumerate(self.classifier):
            x = module(x, rngs=rngs) if isinstance(module, nnx.Dropout) else tap(f"classifier.{i}", module(x))
        return x


class ReLU(nnx.Module):
    """max(0, x), as a module, so that it has a place in the list of layers."""

    def __call__(self, x: Array) -> Array:
        return nnx.relu(x)


class MaxPool(nnx.Module):
    """The largest of each 2 x 2 pixels."""

    def __call__(self, x: Array) -> Array:
        return max_pool(x, 2, 2)


def _adaptive_mean(x: Float[Array, "batch h w channels"]) -> Float[Array, "batch 7 7 channels"]:
    """torch's AdaptiveAvgPool2d: window i of a side of n pixels reaches from floor(i n / 7) to ceil((i + 1) n / 7)."""
    for axis in (1, 2):
        n = x.shape[axis]
        if n != POOLED:
            window = np.arange(POOLED)[:, None]
            pixel = np.arange(n)
            inside = (pixel >= window * n // POOLED) & (pixel < -(-(window + 1) * n // POOLED))
            mean = jnp.asarray(inside / inside.sum(axis=1, keepdims=True), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(mean, x, (1, axis)), 0, axis)
    return x


def _conv(features: int, out: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        features,
        out,
        (3, 3),
        padding=((1, 1), (1, 1)),
        kernel_init=jax.nn.initializers.he_normal(),
        conv_general_dilated=convolution,
        rngs=rngs,
    )


def _dense(features: int, out: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(features, out, kernel_init=jax.nn.initializers.he_normal(), rngs=rngs)
