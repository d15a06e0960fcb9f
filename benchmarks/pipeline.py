"""Images a second that are read, decoded and preprocessed, beside torch's loader, and how long a run waits for them.

    python -m benchmarks.pipeline

The photographs are synthetic, as large as ImageNet's usually are (500 x 375 JPEGs of quality 90, about 100 kB), and in the
page cache. In turn are timed:

- steps: decoding with Pillow alone, the floor; preprocessing (resize, crop, normalise) of decoded images; and both, in plain
    threads;
- pipeline: batches from `ipjax.data.pipeline` beside `torch.utils.data.DataLoader` with torchvision's transforms, of the same
    files, batch size and worker processes; 0 workers are threads of this process for ours, and this thread for torch. The
    start of workers is not counted, nor are the first four batches;
- run: the share of its time that a run on such a folder waits for images, with one step of the path and little to compute.

Needs the extra `test`. Takes about five minutes on two cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks import run_memory
from benchmarks.environment import environment, print_table, write
from ipjax.data.folder import open_folder
from ipjax.data.pipeline import Images, batches
from ipjax.data.preprocessing import Preprocessing
from tests.torch_reference import torch, torchvision

WARM = 4  # batches before the timing: all buffers are in use then


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    num_images: int = 640
    """decoded in each timing"""
    batch_size: int = 32
    num_threads: tuple[int, ...] = (1, 2, 4, 16)
    num_workers: tuple[int, ...] = (0, 1, 2)
    repeats: int = 3
    """of each timing; medians are printed"""
    run_images: int = 200
    """of the run; 0 leaves it out"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints the tables and returns their rows."""
    numbers: dict[str, Any] = {"environment": environment()}
    with TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        numbers["bytes_per_image"] = run_memory.write_photographs(photographs, 64)
        images = open_folder(photographs, Preprocessing())
        numbers["steps"] = _steps(photographs, config)
        numbers["pipeline"] = _pipelines(photographs, images, config)
        print_table(numbers["steps"])
        print_table(numbers["pipeline"])
        if config.run_images:
            found = run_memory.run(Path(folder), config.run_images, run_memory.Config())
            numbers["run"] = {name: found[name] for name in ("images", "seconds", "input_wait")}  # this process is larger
            print_table([numbers["run"]])
    write(config.out, numbers)
    return numbers


def _steps(photographs: Path, config: Config) -> list[dict[str, Any]]:
    """Images a second of each step by number of threads."""
    paths = sorted(photographs.rglob("*.jpg"))
    preprocessing, decoded = Preprocessing(), [_decode(path) for path in paths]
    steps: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "decode": (_decode, paths),
        "preprocess": (preprocessing, decoded),
        "both": (preprocessing, paths),
    }

    def rate(step: str, threads: int) -> float:
        function, sources = steps[step]
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            for _ in pool.map(function, (sources[i % len(sources)] for i in range(config.num_images))):
                pass
            return config.num_images / (time.perf_counter() - start)

    rates = _in_turn({(step, n): (lambda step=step, n=n: rate(step, n)) for n in config.num_threads for step in steps}, config)
    return [{"threads": n} | {f"{step}_images_s": rates[step, n] for step in steps} for n in config.num_threads]


def _pipelines(photographs: Path, images: Images, config: Config) -> list[dict[str, Any]]:
    """Images a second of ours and of torch's by number of worker processes."""
    index = np.arange(config.num_images + WARM * config.batch_size) % len(images)
    sides = {"ours": lambda n: _ours(images, index, n, config), "torch": lambda n: _torch(photographs, index, n, config)}
    works = {
        (side, n): (lambda open_=open_, n=n: _rate(open_(n), config))
        for n in config.num_workers
        for side, open_ in sides.items()
    }
    rates = _in_turn(works, config)
    rows = [{"workers": n} | {f"{side}_images_s": rates[side, n] for side in sides} for n in config.num_workers]
    return [row | {"ratio": row["ours_images_s"] / row["torch_images_s"]} for row in rows]


def _in_turn(works: dict[Any, Callable[[], float]], config: Config) -> dict[Any, float]:
    """Medians, each measured once in every round: a machine that slows down for a while slows down all of them."""
    found: dict[Any, list[float]] = {key: [] for key in works}
    for _ in range(config.repeats):
        for key, work in works.items():
            found[key].append(work())
    return {key: statistics.median(values) for key, values in found.items()}


@contextmanager
def _ours(images: Images, index: np.ndarray, num_workers: int, config: Config) -> Iterator[Iterator[Any]]:
    with closing(batches(images, index, config.batch_size, num_workers=num_workers)) as reading:
        yield reading


@contextmanager
def _torch(photographs: Path, index: np.ndarray, num_workers: int, config: Config) -> Iterator[Iterator[Any]]:
    settings = Preprocessing()
    transforms = torchvision.transforms
    steps = [transforms.Resize(settings.resize), transforms.CenterCrop(settings.crop), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(settings.mean, settings.std)])
    data = torch.utils.data.Subset(torchvision.datasets.ImageFolder(str(photographs), transform), index.tolist())
    context = "spawn" if num_workers else None  # JAX has threads, which a fork would break
    yield iter(torch.utils.data.DataLoader(data, config.batch_size, num_workers=num_workers, multiprocessing_context=context))


def _rate(opened: Any, config: Config) -> float:
    with opened as reading:
        for _ in range(WARM):
            next(reading)
        start = time.perf_counter()
        number = sum(1 for _ in reading)
        return number * config.batch_size / (time.perf_counter() - start)


def _decode(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
