"""What it costs to spread the same work over several emulated devices that share the cores: the overhead of the code path.

    python -m benchmarks.devices

Each number of devices runs in processes of its own, by turns; the times are the shortest of several, after compilation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Config:
    """What to run."""

    devices: tuple[int, ...] = (1, 8)
    num_images: int = 64
    num_steps: int = 16
    rounds: int = 2
    measure: bool = False
    """in this process, and print the times; what the others are started with"""


def main(config: Config) -> None:
    if config.measure:
        print(json.dumps(_times(config)))
        return
    best: dict[int, dict[str, float]] = {}
    for _ in range(config.rounds):
        for devices in config.devices:
            times = _in_process(config, devices)
            best[devices] = {work: min(seconds, best.get(devices, times)[work]) for work, seconds in times.items()}
    first = best[config.devices[0]]
    for devices, times in best.items():
        for work, seconds in times.items():
            print(f"{devices} devices, {work}: {seconds:.2f} s, {seconds / first[work]:.2f} of {config.devices[0]}")


def _in_process(config: Config, devices: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.devices", "--measure"]
    command += ["--num-images", str(config.num_images), "--num-steps", str(config.num_steps)]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _times(config: Config) -> dict[str, float]:
    import jax
    import numpy as np

    import ipjax
    import ports
    from experiments.features import TARGETS, Extraction
    from ipjax import runtime
    from ipjax.data import digits
    from ipjax.estimators import KDE

    images = digits.digits_in_clutter("test", config.num_images).images
    net = ports.load("resnet50", "digits")
    at_once = -(-len(images) // jax.local_device_count())
    block = runtime.block(net, images.shape[1:], len(TARGETS), config.num_steps + 1, at_once)
    extraction = Extraction(net, net.layers(images[:1]), "sketch", config.num_steps, 0, *block)
    features = np.random.default_rng(0).standard_normal((2000, 512)).astype(np.float32)

    def plane() -> None:
        with runtime.over_all_devices():
            ipjax.measure_plane(
                {"layer": features}, np.arange(2000) % 10, input_information=KDE(0.1), label_information=KDE(0.1)
            )

    with jax.default_matmul_precision("highest"):
        return {
            "conductance of all layers": _best(lambda: extraction(images, np.ones(len(images), bool), 0)),
            "plane by KDE, n = 2,000": _best(plane),
        }


def _best(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(3):
        began = time.monotonic()
        function()
        times.append(time.monotonic() - began)
    return min(times)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
