"""Peak memory of whole runs on folders of few and of many images, and the share of time that they wait for images.

    python -m benchmarks.run_memory

Images are noise, saved as JPEGs of ImageNet's usual size; the network is a ResNet-18 with random weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image


@dataclass(frozen=True)
class Config:
    """What to run."""

    num_images: tuple[int, ...] = (200, 2000)
    network: str = "resnet18"
    num_steps: int = 1
    layers: tuple[str, ...] = ("layer3.1", "layer4.1", "avgpool")


def main(config: Config) -> None:
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for count in config.num_images:
            images, out = Path(folder) / f"images{count}", Path(folder) / f"run{count}"
            _write_images(images, count)
            command = [sys.executable, "-m", "experiments.resnet_ip", "--network", config.network, "--weights", "random"]
            command += ["--data", str(images), "--num-steps", str(config.num_steps), "--out", str(out)]
            command += ["--layers", *config.layers]
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            log = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                sys.exit(log)
            peaks.append(usage.ru_maxrss / 2**20)
            waited = json.loads((out / "environment.json").read_text())["input_wait"]
            seconds = time.monotonic() - began
            print(f"{count} images: peak {peaks[-1]:.2f} GiB, {seconds:.0f} s, waited for images {waited:.1%}")
    print(f"peak of {config.num_images[-1]} images over that of {config.num_images[0]}: {peaks[-1] / peaks[0]:.3f}")


def _write_images(folder: Path, count: int) -> None:
    """Ten classes that differ in brightness."""
    rng = np.random.default_rng(0)
    for i in range(count):
        here = folder / f"class{i % 10}"
        here.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(20 * (i % 10), 256, (47, 63, 3), np.uint8)
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(here / f"{i}.jpg", quality=90)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
