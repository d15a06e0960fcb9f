"""How many steps of the path a run takes where a tolerance asks for as many as are needed."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ipjax
from experiments.config import Config
from experiments.console import console, say
from experiments.features import RULE, SKETCH, TARGETS
from experiments.measuring import Kept
from experiments.selection import Selection
from ipjax import runtime
from ipjax.data.pipeline import batches
from ipjax.files import Record
from ipjax.readout import CountSketch, channel_sum

IMAGES = 16


def choose_steps(
    net: ipjax.Network, names: tuple[str, ...], data: Selection, tolerance: float, config: Config, kept: Kept
) -> tuple[int, dict[str, Any]]:
    """The steps that keep the error of every layer's features for each target, and the error that is estimated with so many.

    For all processes to call. Each has the same pilot; all get the largest number, and a run that goes on the one before.
    """

    def measure() -> list[Record]:
        with runtime.together(), console.status("choosing the steps of the path"):
            return _measure(net, names, data, tolerance, config)

    records = kept("path", measure)
    num_steps = int(runtime.gather(np.asarray([max((record["num_steps"] for record in records), default=0)])).max())
    errors = {record["target"]: record["error"] * record["num_steps"] / num_steps for record in records}
    if not runtime.is_main():
        return num_steps, {}
    worst = max(records, key=lambda record: errors[record["target"]])
    say(f"{num_steps} steps of the path: error of about {errors[worst['target']]:.2g} in {worst['layer']}, the worst layer")
    return num_steps, {"num_steps": num_steps, "estimated_error": errors, "worst_layer": worst["layer"]}


def _measure(net: ipjax.Network, names: tuple[str, ...], data: Selection, tolerance: float, config: Config) -> list[Record]:
    """A record a target, by the first images of the selection. The random class is the next image's."""
    with closing(batches(data.images, data.index[:IMAGES], IMAGES, num_workers=config.num_workers)) as images:
        batch = next(images)
    if not batch.mask.any():
        raise ValueError(f"data: the first images cannot be read: {'; '.join(batch.unreadable.values())}; replace them")
    x = jnp.asarray(batch.images[batch.mask], jnp.result_type(*jax.tree.leaves(net.params)))
    logits = jax.jit(lambda net, x: net(x))(net, x)
    predicted, num_classes = np.argmax(logits, axis=1), logits.shape[1]
    classes = np.eye(num_classes, dtype=np.float32)
    contrast = np.broadcast_to(ipjax.contrast_weights(num_classes, config.seed), (len(x), num_classes))
    weights = jnp.stack([classes[predicted], contrast, classes[np.roll(predicted, 1)]])
    readout = CountSketch(SKETCH, config.seed) if config.readout == "sketch" else channel_sum
    records = []
    for target, of_logits in zip(TARGETS, weights, strict=True):
        steps = ipjax.steps_for(net, x, tolerance, layers=names, target=of_logits, rule=RULE, readout=readout)
        layer = steps.worst_layer
        records.append({"target": target, "num_steps": steps.num_steps, "error": steps.error[layer], "layer": layer})
    return records
