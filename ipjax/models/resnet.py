"""ResNet 18, 34, 50, 101 and 152 in Flax NNX, layer for layer torchvision's (v1.5: the stride sits on the 3x3).

He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385). Layers carry torchvision's
names; a ReLU module that torchvision calls several times in a block is numbered as by torchvision's feature extraction
(`relu`, `relu_1`), and a block's last ReLU is the block itself (`layer3.2`).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from ipjax.models.convolution import convolution, max_pool
from ipjax.taps import Network, Tap, from_tapping_module


@dataclass(frozen=True)
class Architecture:
    """`blocks` residual blocks in each of four stages; bottleneck blocks widen their output `expansion` times."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def expansion(self) -> int:
        """Channels of a block's output over those inside it."""
        return 4 if self.bottleneck else 1


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), bottleneck=True),
}


def resnet(name: str, *, width: int = 64, num_classes: int = 1000, rngs: nnx.Rngs) -> ResNet:
    """A randomly initialised ResNet (He et al. initialisation, as torchvision's).

    **Arguments:**

    - `name`: one of `ARCHITECTURES`.
    - `width`: channels of the stem; 64 in the paper.
    """
    if name not in ARCHITECTURES:
        raise KeyError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {name!r}")
    return ResNet(name, width=width, num_classes=num_classes, rngs=rngs)


def as_network(model: ResNet) -> Network:
    """The model in evaluation mode as a `Network`; default layers: the stem, every block, the pooled features."""
    blocks = [f"{stage}.{i}" for stage in STAGES for i in range(len(getattr(model, stage)))]
    return from_tapping_module(model, ("maxpool", *blocks, "avgpool"), input_shape=(None, None, 3))


STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(nnx.Module):
    """`model(x, tap)`: x [batch, height, width, 3] to logits [batch, num_classes]."""

    def __init__(self, name: str, *, width: int, num_classes: int, rngs: nnx.Rngs):
        self.name = name
        architecture = ARCHITECTURES[name]
        self.conv1 = _conv(3, width, 7, stride=2, rngs=rngs)
        self.bn1 = _batch_norm(width, rngs)
        block = Bottleneck if architecture.bottleneck else BasicBlock
        features = width
        for i, (stage, depth) in enumerate(zip(STAGES, architecture.blocks, strict=True)):
            inner = width * 2**i
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(features, inner, inner * architecture.expansion, stride, rngs))
                features = inner * architecture.expansion
            setattr(self, stage, nnx.List(blocks))
        self.fc = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w 3"], tap: Tap = lambda name, value: value) -> Array:
        x = tap("conv1", self.conv1(x))
        x = tap("bn1", self.bn1(x))
        x = tap("relu", nnx.relu(x))
        x = tap("maxpool", max_pool(x, 3, 2, 1))
        for stage in STAGES:
            for i, block in enumerate(getattr(self, stage)):
                x = block(x, tap, f"{stage}.{i}")
        x = tap("avgpool", jnp.mean(x, axis=(1, 2)))
        return tap("fc", self.fc(x))


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions (ResNet 18 and 34)."""

    def __init__(self, features: int, inner: int, out: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(features, inner, 3, stride=stride, rngs=rngs)
        self.bn1 = _batch_norm(inner, rngs)
        self.conv2 = _conv(inner, out, 3, rngs=rngs)
        self.bn2 = _batch_norm(out, rngs)
        self.downsample = _downsample(features, out, stride, rngs)

    def __call__(self, x: Array, tap: Tap, name: str) -> Array:
        y = tap(f"{name}.conv1", self.conv1(x))
        y = tap(f"{name}.bn1", self.bn1(y))
        y = tap(f"{name}.relu", nnx.relu(y))
        y = tap(f"{name}.conv2", self.conv2(y))
        y = tap(f"{name}.bn2", self.bn2(y))
        return tap(name, nnx.relu(y + _shortcut(self.downsample, x, tap, name)))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions (ResNet 50, 101 and 152)."""

    def __init__(self, features: int, inner: int, out: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(features, inner, 1, rngs=rngs)
        self.bn1 = _batch_norm(inner, rngs)
        self.conv2 = _conv(inner, inner, 3, stride=stride, rngs=rngs)
        self.bn2 = _batch_norm(inner, rngs)
        self.conv3 = _conv(inner, out, 1, rngs=rngs)
        self.bn3 = _batch_norm(out, rngs)
        self.downsample = _downsample(features, out, stride, rngs)

    def __call__(self, x: Array, tap: Tap, name: str) -> Array:
        y = tap(f"{name}.conv1", self.conv1(x))
        y = tap(f"{name}.bn1", self.bn1(y))
        y = tap(f"{name}.relu", nnx.relu(y))
        y = tap(f"{name}.conv2", self.conv2(y))
        y = tap(f"{name}.bn2", self.bn2(y))
        y = tap(f"{name}.relu_1", nnx.relu(y))
        y = tap(f"{name}.conv3", self.conv3(y))
        y = tap(f"{name}.bn3", self.bn3(y))
        return tap(name, nnx.relu(y + _shortcut(self.downsample, x, tap, name)))


def _downsample(features: int, out: int, stride: int, rngs: nnx.Rngs) -> nnx.List | None:
    if stride == 1 and features == out:
        return None
    return nnx.List([_conv(features, out, 1, stride=stride, rngs=rngs), _batch_norm(out, rngs)])


def _shortcut(downsample: nnx.List | None, x: Array, tap: Tap, name: str) -> Array:
    for i, module in enumerate(downsample or ()):
        x = tap(f"{name}.downsample.{i}", module(x))
    return x


def _conv(features: int, out: int, size: int, *, stride: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    pad = size // 2
    return nnx.Conv(
        features,
        out,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=convolution,
        rngs=rngs,
    )


def _batch_norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)
