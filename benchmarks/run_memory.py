"""Peak memory of whole runs on folders of few and of many images, and the share of time that they wait for images.

    python -m benchmarks.run_memory

Images are synthetic JPEGs of ImageNet's usual size; the network is a ResNet-18 with random weights.
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
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks.environment import environment, print_table, write


@dataclass(frozen=True)
class Config:
    """What to run."""

    num_images: tuple[int, ...] = (200, 2000)
    network: str = "resnet18"
    num_steps: int = 1
    layers: tuple[str, ...] = ("layer3.1", "layer4.1", "avgpool")
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints a row for each run and returns them."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(Path(folder), count, config) for count in config.num_images]
    print_table(runs)
    ratio = runs[-1]["peak_gib"] / runs[0]["peak_gib"]
    print(f"peak of {runs[-1]['images']} images over that of {runs[0]['images']}: {ratio:.3f}")
    numbers = {"environment": environment(), "runs": runs, "ratio": ratio}
    write(config.out, numbers)
    return numbers


def run(folder: Path, count: int, config: Config) -> dict[str, Any]:
    """Of a run on so many images, in a process of its own: peak memory, seconds, share of time waited for images."""
    images, out = folder / f"images{count}", folder / f"run{count}"
    write_photographs(images, count, num_classes=10)
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
    seconds = time.monotonic() - began
    waited = json.loads((out / "environment.json").read_text())["input_wait"]
    return {"images": count, "peak_gib": usage.ru_maxrss / 2**20, "seconds": seconds, "input_wait": waited}


def write_photographs(folder: Path, number: int, num_classes: int = 2) -> int:
    """JPEGs of 500 x 375 in a folder a class, which differ in brightness; returns their mean size in bytes.

    Smooth shapes with fine noise, which compress as photographs do.
    """
    rng = np.random.default_rng(0)
    for i in range(number):
        darkest = 200 // num_classes * (i % num_classes)
        coarse = Image.fromarray(rng.integers(darkest, 256, size=(12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(smooth + rng.normal(0, 16, smooth.shape), 0, 255).astype(np.uint8)
        path = folder / f"class{i % num_classes}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    return sum(path.stat().st_size for path in folder.rglob("*.jpg")) // number


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
