"""Images a second that the pipeline decodes, resizes, crops and normalises, without any network behind it.

    python -m benchmarks.decoding

The photographs are synthetic, as large as ImageNet's usually are (500 x 375 JPEGs of quality 90, about 100 kB). Compared
are one call after another, threads, and worker processes; the start of the processes is not counted.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tyro
from PIL import Image

from ipjax.data.folder import open_folder
from ipjax.data.pipeline import Images, batches
from ipjax.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    num_images: int = 640
    """decoded in each timing"""
    batch_size: int = 32
    num_workers: tuple[int, ...] = (0, 1, 2)
    """0: threads"""
    repeats: int = 3
    """of each timing; medians are printed"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints images a second and returns them."""
    numbers: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with TemporaryDirectory() as folder:
        numbers["bytes_per_image"] = _write(Path(folder))
        images = open_folder(folder, Preprocessing())
        times = {name: [] for name in ("one_by_one", *(f"num_workers_{n}" for n in config.num_workers))}
        # One after another in every round: a machine that slows down for a while slows down all of them.
        for _ in range(config.repeats):
            start = time.perf_counter()
            for i in range(len(images)):
                _ = images[i]
            times["one_by_one"].append(len(images) / (time.perf_counter() - start))
            for num_workers in config.num_workers:
                times[f"num_workers_{num_workers}"].append(_rate(images, config, num_workers))
    numbers |= {name: statistics.median(rates) for name, rates in times.items()}
    for key, value in numbers.items():
        print(f"{key:20} {value:.1f}" if isinstance(value, float) else f"{key:20} {value}")
    if config.out is not None:
        config.out.write_text(json.dumps(numbers, indent=2) + "\n")
    return numbers


def _rate(images: Images, config: Config, num_workers: int) -> float:
    """Images a second once all buffers are in use: the first four batches, and the start of workers, are left out."""
    warm_up = 4 * config.batch_size
    index = np.arange(config.num_images + warm_up) % len(images)
    with closing(batches(images, index, config.batch_size, num_workers=num_workers)) as reading:
        for _ in range(4):
            next(reading)
        start = time.perf_counter()
        decoded = sum(int(batch.mask.sum()) for batch in reading)
        return decoded / (time.perf_counter() - start)


def _write(folder: Path, number: int = 64) -> int:
    """Smooth shapes with fine noise, which compress as photographs do; returns their mean size."""
    rng = np.random.default_rng(0)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(smooth + rng.normal(0, 16, smooth.shape), 0, 255).astype(np.uint8)
        path = folder / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    return sum(path.stat().st_size for path in folder.rglob("*.jpg")) // number


if __name__ == "__main__":
    main(tyro.cli(Config))
