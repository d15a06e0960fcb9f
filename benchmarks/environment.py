"""What all benchmarks share: the machine they ran on, timing, tables, and the file of their numbers."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax

from ipjax.files import checked_place, replacing

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", "captum")


def environment() -> dict[str, Any]:
    """Processor, usable cores, memory, devices and versions; of packages that are not installed nothing."""
    found = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "devices": [f"{device} ({device.device_kind})" for device in jax.devices()],
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "torch" in sys.modules:
        found["torch_threads"] = sys.modules["torch"].get_num_threads()
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timed(work: Callable[[], Any], repeats: int, *, warm: bool = True) -> tuple[float, Any]:
    """Median wall time in seconds and the last result, waited for. `warm` calls once before, which compiles."""
    if warm:
        jax.block_until_ready(work())
    result, times = None, []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def median_seconds(work: Callable[[], Any], repeats: int, *, warm: bool = True) -> float:
    """The time of `timed` alone."""
    return timed(work, repeats, warm=warm)[0]


@dataclass(frozen=True)
class Paired:
    """Two sides timed in turn.

    **Attributes:**

    - `a`, `b`: median seconds of each.
    - `ratio`, `lowest`, `highest`: a over b, of the two timings of a round; median, least and largest of the rounds.
    """

    a: float
    b: float
    ratio: float
    lowest: float
    highest: float


def paired(a: Callable[[], Any], b: Callable[[], Any], repeats: int, *, warm: bool = True) -> Paired:
    """Both sides in every round, the order changing: a machine that slows down for a while slows down both."""
    times: dict[str, list[float]] = {"a": [], "b": []}
    sides = {"a": a, "b": b}
    for name in sides if warm else ():
        jax.block_until_ready(sides[name]())
    for round_ in range(repeats):
        for name in ("a", "b") if round_ % 2 == 0 else ("b", "a"):
            times[name].append(median_seconds(sides[name], 1, warm=False))
    ratios = [one / other for one, other in zip(times["a"], times["b"], strict=True)]
    of_a, of_b, of_both = map(statistics.median, (times["a"], times["b"], ratios))
    return Paired(of_a, of_b, of_both, min(ratios), max(ratios))


def in_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a function returns in a fresh process, and the most memory that the process held, in bytes (Linux only)."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, int]:
    result = function(*arguments)
    return result, _memory("VmHWM")  # getrusage's peak a process takes over from the one that started it


def memory_held() -> int:
    """Bytes of memory that this process holds now (Linux only)."""
    return _memory("VmRSS")


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def print_values(values: Mapping[str, Any]) -> None:
    """A line for each."""
    width = max(map(len, values), default=0)
    for key, value in values.items():
        print(f"{key:{width}}  {short(value)}")


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """A line for each row, with a heading; a column for each key of any."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([short(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)


def short(value: Any) -> str:
    """A number with four digits; all else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def begin(out: Path | None) -> dict[str, Any]:
    """The numbers that are in the file already, of which parts may be measured again, and this machine.

    Raises as `checked_place` and `read`.
    """
    found = read(out) if out is not None and checked_place(out).exists() else {}
    return found | {"environment": environment()}


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote. Raises `ValueError` for other files."""
    try:
        numbers = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, as a benchmark writes it with --out: {error}; measure again") from error
    if not isinstance(numbers, dict) or "environment" not in numbers:
        raise ValueError(
            f"{path}: expected numbers with their environment, as a benchmark writes them with --out; measure again"
        )
    return numbers


def write(out: Path | None, numbers: Mapping[str, Any]) -> None:
    """The numbers as JSON, where a path is given."""
    if out is not None:
        with replacing(out) as file:
            file.write((json.dumps(numbers, indent=2) + "\n").encode())
