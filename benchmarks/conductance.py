"""Conductance of every block of ResNet-50 at 224x224: this library against Captum, equal layers and steps, in one run.

    python -m benchmarks.conductance

Captum computes one layer a call, so its calls are looped over the layers. Also printed: what one of our nodes (forward,
backward to every layer, and the conductance itself) costs beside torch's forward and backward pass to the input on the
same batch. Needs the extra `test`. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import tyro

import ipjax
import ports
from tests import torch_reference
from tests.torch_reference import torch


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    num_nodes: int = 32
    """path nodes of ours; Captum gets as many steps"""
    repeats: int = 3
    """of each timing; medians are printed"""
    captum_repeats: int = 1
    """of Captum's loop over all layers, after a warm-up call"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints the comparison and returns its numbers."""
    from captum.attr import LayerConductance

    model = torch_reference.network("resnet50")
    with TemporaryDirectory() as folder:
        net = ports.load("resnet50", torch_reference.save(model, Path(folder) / "random.safetensors"))
    x = np.random.default_rng(0).standard_normal((8, 224, 224, 3)).astype(np.float32)
    of_torch = torch_reference.to_torch(x)
    layers = [name for name in net.layers(x) if name not in ("input", "avgpool")]
    modules = dict(model.named_modules())

    def ours(images: np.ndarray) -> Any:
        # Our rule with n - 1 steps has n nodes, both ends included; Captum's with n steps has n + 1.
        rule = ipjax.quadrature.trapezoid(config.num_nodes - 1)
        return jax.block_until_ready(ipjax.layer_conductance(net, images, layers=layers, target=3, quadrature=rule))

    def captums(names: list[str]) -> None:
        for name in names:
            LayerConductance(model, modules[name]).attribute(of_torch[:1], target=3, n_steps=config.num_nodes)

    def passes(images: Any) -> None:
        images = images.detach().requires_grad_(True)
        torch.autograd.grad(model(images)[:, 3].sum(), images)

    compile_and_run = _seconds(lambda: ours(x[:1]), 1)
    numbers = {
        "environment": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "jax": jax.__version__,
            "torch": torch.__version__,
            "devices": [str(device) for device in jax.devices()],
        },
        "layers": len(layers),
        "nodes": config.num_nodes,
        "ours_first_call": compile_and_run,
        "ours": _seconds(lambda: ours(x[:1]), config.repeats),
    }
    captums(layers[-1:])
    numbers["captum"] = _seconds(lambda: captums(layers), config.captum_repeats)
    numbers["ours_again"] = _seconds(lambda: ours(x[:1]), config.repeats)
    numbers["ratio"] = numbers["captum"] / statistics.mean((numbers["ours"], numbers["ours_again"]))
    passes(of_torch)
    ours(x)
    numbers["torch_forward_backward_per_image"] = _seconds(lambda: passes(of_torch), config.repeats) / len(x)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    channels_last = of_torch.contiguous(memory_format=torch.channels_last)
    passes(channels_last)
    numbers["torch_channels_last_per_image"] = _seconds(lambda: passes(channels_last), config.repeats) / len(x)
    numbers["ours_node_per_image"] = _seconds(lambda: ours(x), 1) / len(x) / config.num_nodes
    numbers["node_ratio"] = numbers["ours_node_per_image"] / numbers["torch_forward_backward_per_image"]
    numbers["node_ratio_channels_last"] = numbers["ours_node_per_image"] / numbers["torch_channels_last_per_image"]
    for key, value in numbers.items():
        print(f"{key:34} {value:.3f}" if isinstance(value, float) else f"{key:34} {value}")
    if config.out is not None:
        config.out.write_text(json.dumps(numbers, indent=2) + "\n")
    return numbers


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main(tyro.cli(Config))
