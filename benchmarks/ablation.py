"""What an ablation costs beside a plain pass forward, and how long all ablations of a run take.

    python -m benchmarks.ablation

The digits ResNet on 449 held-out images, with means and scores of 450 others. Both evaluations get the images in equal
blocks; they are timed in turn, and the medians are compared by wall time and by processor time, which other programs on the
machine disturb less. Takes about two minutes on two cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro

import ipjax
import ports
from benchmarks.environment import print_values
from ipjax import ablation
from ipjax.data.digits import digits_in_clutter


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    network: str = "resnet50"
    """an architecture with an embedded digits checkpoint"""
    num_images: int = 899
    """of which the second half is evaluated"""
    num_layers: int = 3
    """whose channels are ranked, evenly spread over the network; of the others a random half is replaced"""
    num_steps: int = 32
    """of the conductance by which channels are ranked"""
    repeats: int = 10
    """of the timing of one ablation"""


def main(config: Config) -> dict[str, Any]:
    """Prints the timings and returns them."""
    net = ports.load(config.network, "digits")
    data = digits_in_clutter("test", config.num_images)
    half = config.num_images - config.num_images // 2
    x, y = data.images[half:], data.labels[half:]
    reference, labels = data.images[:half], data.labels[:half]
    branches = ablation.residual_branches(net, x)
    layers = [name for name in net.layers(x) if name != "input"]
    ranked = [layers[round(i)] for i in np.linspace(0, len(layers) - 1, config.num_layers)]
    numbers: dict[str, Any] = {"images": len(x), "layers": len(layers), "blocks": len(branches)}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start, before = time.perf_counter(), time.process_time()
        result = work()
        numbers[f"{name}_seconds"] = time.perf_counter() - start
        numbers[f"{name}_processor_seconds"] = time.process_time() - before
        return result

    means = timed("means", lambda: ablation.means(net, reference, (*layers, *branches.values())))
    rule = ipjax.quadrature.trapezoid(config.num_steps)
    sums: dict[str, list[np.ndarray]] = {name: [] for name in ranked}

    def conduct() -> None:  # a run of the main program has these already
        for (block,), count in ablation.blocks(reference):
            values = ipjax.layer_conductance(net, block, layers=ranked, quadrature=rule, readout=ipjax.readout.channel_sum)
            for name, value in values.items():
                sums[name].append(np.asarray(value)[:count])

    timed("conductance", conduct)
    conductance = {name: np.concatenate(values) for name, values in sums.items()}
    scores = timed("scores", lambda: ipjax.scores.channel_scores(net, reference, labels, ranked, conductance=conductance))
    timed("first_ablation", lambda: ablation.evaluate(net, x, y, means, {}))
    numbers |= _ratio(net, x, y, means, layers[len(layers) // 2], config.repeats)
    timed("blocks", lambda: ablation.knock_out_blocks(net, x, y, means, branches))
    curves = timed("curves", lambda: ablation.channel_curves(net, x, y, means, ranked, scores))
    others = [name for name in layers if name not in ranked]
    timed("random_halves", lambda: ablation.channel_curves(net, x, y, means, others, {}, shares=(0.5,)))
    numbers["records_of_curves"] = len(curves)
    parts = ("means", "scores", "first_ablation", "blocks", "curves", "random_halves")
    for unit in ("seconds", "processor_seconds"):
        numbers[f"all_{unit}"] = sum(numbers[f"{part}_{unit}"] for part in parts)
    print_values(numbers)
    return numbers


def _ratio(net: ipjax.Network, x: np.ndarray, y: np.ndarray, means: dict, layer: str, repeats: int) -> dict[str, float]:
    """Medians of one ablation and of the plain pass over the same blocks of images, and the ablation over the pass."""
    plain = jax.jit(lambda net, x: net(x))
    removed = {layer: np.arange(means[layer].shape[-1]) % 2 == 0}

    def forward() -> None:
        jax.block_until_ready([plain(net, block) for (block,), _ in ablation.blocks(x)])

    def ablate() -> None:
        ablation.evaluate(net, x, y, means, removed)

    work = {"forward": forward, "ablation": ablate}
    wall: dict[str, list[float]] = {name: [] for name in work}
    processor: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, call in work.items():
            start, before = time.perf_counter(), time.process_time()
            call()
            if repeat:  # the first compiles
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - before)
    found = {f"{name}_seconds": statistics.median(times) for name, times in wall.items()}
    found |= {f"{name}_processor_seconds": statistics.median(times) for name, times in processor.items()}
    found["ratio"] = found["ablation_seconds"] / found["forward_seconds"]
    found["processor_ratio"] = found["ablation_processor_seconds"] / found["forward_processor_seconds"]
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
