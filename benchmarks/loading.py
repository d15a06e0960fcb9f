"""Loading a ResNet-50 state dict: this library against torch, the same file, in one run.

    python -m benchmarks.loading

Reading is `ports.readers.read` against `torch.load(weights_only=True)`; it touches no weights, so loading is the fairer
comparison: `ports.load` as it is, against `ports.load` that gets its arrays from `torch.load`. Also printed: how far
`ports.load` raises the memory of a fresh process at its peak, pages of the mapped file included, as a multiple of the
file's size (Linux only). Needs the extra `test`. Takes about a minute on two cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
import tyro

import ports
from benchmarks.environment import environment, median_seconds, print_values, write
from ports import readers
from tests import torch_reference
from tests.torch_reference import torch


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    repeats: int = 7
    """of each timing; medians are printed"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints the comparison and returns its numbers."""
    model = torch_reference.network("resnet50")
    numbers: dict[str, Any] = environment()
    with TemporaryDirectory() as folder:
        files = {"zip": Path(folder) / "zip.pth", "legacy": Path(folder) / "legacy.pth"}
        files["safetensors"] = torch_reference.save(model, Path(folder) / "weights.safetensors")
        for name in ("zip", "legacy"):
            torch.save(model.state_dict(), files[name], _use_new_zipfile_serialization=name == "zip")
        for name, path in files.items():
            numbers |= {f"{name}_{key}": value for key, value in _compare(name, path, config.repeats).items()}
    print_values(numbers)
    write(config.out, numbers)
    return numbers


def _compare(name: str, path: Path, repeats: int) -> dict[str, float]:
    def load() -> Any:
        return jax.block_until_ready(ports.load("resnet50", path).params)

    def read_with_torch() -> dict[str, np.ndarray]:
        if name == "safetensors":
            from safetensors.torch import load_file

            return {key: value.numpy() for key, value in load_file(path).items()}
        return {key: value.numpy() for key, value in torch.load(path, weights_only=True).items()}

    def load_with_torch() -> None:
        with patch.object(readers, "read", side_effect=lambda _: read_with_torch()) as read:
            load()
        assert read.called, "ports.load does not read through ports.readers.read any more"

    work = {
        "read": lambda: readers.read(path),
        "torch_read": read_with_torch,
        "load": load,
        "torch_load": load_with_torch,
    }
    # One after another in every round: a machine that slows down for a while slows down all of them.
    times = {key: [] for key in work}
    load()
    for _ in range(repeats):
        for key, function in work.items():
            times[key].append(median_seconds(function, 1, warm=False))
    seconds = {key: statistics.median(values) for key, values in times.items()}
    return {
        **seconds,
        "read_over_torch": seconds["read"] / seconds["torch_read"],
        "load_over_torch": seconds["load"] / seconds["torch_load"],
        "peak_memory_over_file": _peak_memory(path) / path.stat().st_size,
    }


def _peak_memory(path: Path) -> int:
    """Bytes that `ports.load` adds to a fresh process that has built a narrow network before, at the peak."""
    code = (
        "import re, sys, jax, ports\n"
        "from pathlib import Path\n"
        "kib = lambda key: int(re.search(key + r':\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
        "jax.block_until_ready(ports.load('resnet50', 'random', width=1).params)\n"
        "Path('/proc/self/clear_refs').write_text('5')  # forgets the peak so far\n"
        "before = kib('VmRSS')\n"
        "net = jax.block_until_ready(ports.load('resnet50', sys.argv[1]).params)\n"
        "print(kib('VmHWM') - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout)


if __name__ == "__main__":
    main(tyro.cli(Config))
