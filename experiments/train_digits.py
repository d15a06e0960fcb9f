"""Trains the embedded ResNet-50-shaped checkpoint on digits in clutter and writes it with torchvision's key names.

    python -m experiments.train_digits --out resnet50-digits.safetensors

It sees one half of the digits only; the accuracy it prints is on the other half. Every epoch places its digits anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

EPOCH_IMAGES = 896  # of the half's 898 digits: seven whole batches


@dataclass(frozen=True)
class Config:
    """Training of the embedded checkpoint."""

    out: Path = Path("resnet50-digits.safetensors")
    """where to write the checkpoint"""
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
    model = resnet("resnet50", width=config.width, num_classes=NUM_CLASSES, rngs=nnx.Rngs(config.seed))
    model.train()
    for stage in STAGES:  # blocks start near the identity (after Goyal et al. 2017), or 50 layers train slowly
        for block in getattr(model, stage):
            block.bn3.scale[...] = jnp.full_like(block.bn3.scale, 0.25)
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
    accuracy = evaluate(model)
    settings = {key: str(value) for key, value in asdict(config).items() if key != "out"}
    save_file(ports.export(model), config.out, metadata=settings | {"accuracy": f"{accuracy:.4f}"})
    print(json.dumps({"accuracy on the other half": round(accuracy, 4), "bytes": config.out.stat().st_size}))
    return accuracy


def evaluate(model: ResNet, num_images: int = 8990) -> float:
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
