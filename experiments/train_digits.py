"""Trains an embedded checkpoint, shaped as ResNet-50 or VGG-16, on digits in clutter, with torchvision's key names.

    python -m experiments.train_digits --network resnet50 --out resnet50-digits.safetensors
    python -m experiments.train_digits --network vgg16 --out vgg16-digits.safetensors

It sees one half of the digits only; the accuracy it prints is on the other half. Every epoch places its digits anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax import Array
from rich.progress import track
from safetensors.numpy import save_file

import ports
from ipjax.data.digits import NUM_CLASSES, digits_in_clutter
from ipjax.models.resnet import STAGES, ResNet, resnet
from ipjax.models.vgg import VGG, vgg

EPOCH_IMAGES = 896  # of the half's 898 digits: seven whole batches
HIDDEN = 128  # units of VGG's dense layers (4096 in the paper)


@dataclass(frozen=True)
class Config:
    """Training of the embedded checkpoint."""

    network: Literal["resnet50", "vgg16"] = "resnet50"
    out: Path | None = None
    """where to write the checkpoint; default: <network>-digits.safetensors"""
    width: int = 16
    """channels of the stem (64 in the paper)"""
    epochs: int = 300
    """passes over the training half; each places its digits anew"""
    batch_size: int = 128
    learning_rate: float = 2e-3
    """peak of the one-cycle cosine schedule"""
    weight_decay: float = 0.05
    seed: int = 0


def main(config: Config) -> float:
    """Trains, writes `config.out` and returns the accuracy on the half that was not seen."""
    model = _untrained(config)
    steps = EPOCH_IMAGES // config.batch_size * config.epochs
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, steps // 10, steps)
    optimizer = optax.adamw(
        schedule, weight_decay=config.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    )
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, statistics: Any, state: Any, images: Array, labels: Array) -> tuple[Any, ...]:
        def loss(params: Any) -> tuple[Array, Any]:
            model = nnx.merge(graph, params, statistics, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), statistics, state, value

    for epoch in track(range(config.epochs), description="epochs"):
        losses = []
        for images, labels in _batches(config, epoch):
            params, statistics, state, value = step(params, statistics, state, images, labels)
            losses.append(value)
        if epoch % 20 == 19:
            print(f"epoch {epoch + 1}: cross-entropy {np.mean(losses):.4f}")
    model = nnx.merge(graph, params, statistics)
    if isinstance(model, VGG):
        model = without_batch_norm(model)
    accuracy = evaluate(model)
    settings = {key: str(value) for key, value in asdict(config).items() if key != "out"}
    out = config.out or Path(f"{config.network}-digits.safetensors")
    save_file(ports.export(model), out, metadata=settings | {"accuracy": f"{accuracy:.4f}"})
    print(json.dumps({"accuracy on the other half": round(accuracy, 4), "bytes": out.stat().st_size}))
    return accuracy


def _untrained(config: Config) -> ResNet | VGG:
    sizes: dict[str, Any] = {"width": config.width, "num_classes": NUM_CLASSES, "rngs": nnx.Rngs(config.seed)}
    if config.network == "vgg16":
        model = vgg("vgg16_bn", hidden=HIDDEN, **sizes)  # a plain VGG-16 hardly trains: it gets there by batch normalisation
        model.train()
        for module in model.classifier:
            module.eval()  # without dropout, under which so narrow layers learn nothing
        return model
    model = resnet("resnet50", **sizes)
    model.train()
    for stage in STAGES:  # blocks start near the identity (after Goyal et al. 2017), or 50 layers train slowly
        for block in getattr(model, stage):
            block.bn3.scale[...] = jnp.full_like(block.bn3.scale, 0.25)
    return model


def without_batch_norm(model: VGG) -> VGG:
    """The plain VGG of the same function: each normalisation, affine in evaluation mode, becomes part of its convolution."""
    convolutions: list[Any] = [module for module in model.features if isinstance(module, nnx.Conv)]
    norms: list[Any] = [module for module in model.features if isinstance(module, nnx.BatchNorm)]
    width = convolutions[0].out_features
    plain = vgg(model.name.removesuffix("_bn"), width=width, hidden=1, num_classes=1, rngs=nnx.Rngs(0))
    targets: list[Any] = [module for module in plain.features if isinstance(module, nnx.Conv)]
    for target, convolution, norm in zip(targets, convolutions, norms, strict=True):
        scale = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)
        target.kernel[...] = convolution.kernel[...] * scale
        target.bias[...] = (convolution.bias[...] - norm.mean[...]) * scale + norm.bias[...]
    plain.classifier = model.classifier
    return plain


def evaluate(model: ResNet | VGG, num_images: int = 8990) -> float:
    """Share of images from the half that training does not see whose digit the model names."""
    model.eval()
    graph, state = nnx.split(model)
    predict = jax.jit(lambda state, images: nnx.merge(graph, state)(images).argmax(-1))
    data = digits_in_clutter("test", num_images)
    chunks = np.split(data.images, range(500, num_images, 500))
    return float(np.mean(np.concatenate([predict(state, chunk) for chunk in chunks]) == data.labels))


def _batches(config: Config, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whole batches of one epoch, its digits placed anew."""
    data = digits_in_clutter("train", EPOCH_IMAGES, seed=1000 * config.seed + epoch)
    for start in range(0, len(data.labels) - config.batch_size + 1, config.batch_size):
        batch = slice(start, start + config.batch_size)
        yield data.images[batch], data.labels[batch]


if __name__ == "__main__":
    main(tyro.cli(Config))
