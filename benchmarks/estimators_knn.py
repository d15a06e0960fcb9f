"""Nearest-neighbour information: this library against bmi, infomeasure and scikit-learn, equal estimators and data, in one run.

    python -m benchmarks.estimators_knn --peers /path/to/python

KSG is timed against the first estimator of bmi (`benchmark-mi`, of PyPI, which needs jax 0.4.30 and so an environment of its
own) and infomeasure, which run in the given Python; information of single channels against scikit-learn's
`mutual_info_classif`. Ours are timed right before and after each peer, compiled, and the median counts. Values are printed
as well, since only equal work can be compared. Takes about five minutes on two cores, most of them infomeasure's at 64
features.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from sklearn.feature_selection import mutual_info_classif

from ipjax.channels import input_information, label_information
from ipjax.estimators import KSG, Ross, mutual_information

_PEER = """
import sys, time, numpy as np
name, n, d, k, repeats = sys.argv[1], *map(int, sys.argv[2:])
x, y = np.random.default_rng(0).normal(size=(2, n, d))
x, y = x / np.sqrt(x.var(axis=0).mean()), y / np.sqrt(y.var(axis=0).mean())
if name == "infomeasure":
    import infomeasure
    work = lambda: infomeasure.mutual_information(x, y, approach="ksg", k=k, noise_level=0)
else:
    from bmi.estimators.ksg import KSGEnsembleFirstEstimator
    metric = name.split()[1]
    work = lambda: KSGEnsembleFirstEstimator(neighborhoods=(k,), standardize=False, metric_x=metric).estimate(x, y)
times = []
for _ in range(repeats):
    start = time.perf_counter()
    value = work()
    times.append(time.perf_counter() - start)
print(float(value), *times)
"""


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    peers: Path | None = None
    """Python with bmi or infomeasure; peers that it does not have are skipped"""
    num_samples: int = 10_000
    """of the comparisons of KSG; half as many for single channels"""
    num_features: tuple[int, ...] = (8, 64)
    """on each side"""
    num_channels: int = 2048
    """of a layer"""
    sklearn_channels: int = 64
    """on which scikit-learn is timed, for its time on all: it works one by one"""
    repeats: int = 3
    """of each timing; medians are printed"""
    infomeasure_repeats: int = 1
    """of infomeasure, which takes minutes"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> list[dict[str, Any]]:
    """Prints the comparison and returns its rows."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()}")
    rows = [
        *(row for d in config.num_features for row in _ksg(config, d)),
        *_channels(config),
    ]
    if config.out is not None:
        config.out.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def _ksg(config: Config, d: int) -> list[dict[str, Any]]:
    n = config.num_samples
    x, y = np.random.default_rng(0).normal(size=(2, n, d))
    labels = np.arange(n) % 10
    rows = []
    for estimator, other in ((KSG(), y), (KSG(variant=2), y), (Ross(), labels)):
        work = _estimating(x, other, estimator)
        first = _seconds(work, 1)
        rows.append(_row(f"{estimator}, d = {d}", f"(first call {first:.2f} s)", work(), _seconds(work, config.repeats)))
    work = _estimating(x, y, KSG())
    for peer, repeats in (
        ("bmi euclidean", config.repeats),
        ("bmi chebyshev", config.repeats),
        ("infomeasure", config.infomeasure_repeats),
    ):
        before = _seconds(work, config.repeats)
        answer = _peer(config.peers, peer, n, d, repeats)
        if answer is None:
            continue
        ours = statistics.mean((before, _seconds(work, config.repeats)))
        rows.append(_row(f"KSG, d = {d}", peer, work(), ours, *answer))
    return rows


def _channels(config: Config) -> list[dict[str, Any]]:
    n, channels, some = config.num_samples // 2, config.num_channels, config.sklearn_channels
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, size=n)
    features = rng.normal(size=(n, channels)) + 0.3 * labels[:, None] * rng.uniform(size=channels)

    def ours() -> np.ndarray:
        return np.asarray(label_information(features, labels))

    def theirs() -> np.ndarray:
        return mutual_info_classif(features[:, :some], labels, random_state=0)

    ours()
    before, peer = _seconds(ours, config.repeats), _seconds(theirs, config.repeats) * channels / some
    seconds = statistics.mean((before, _seconds(ours, config.repeats)))
    difference = np.abs(np.maximum(ours()[:some], 0) - theirs()).max()
    about = f"{channels} channels, n = {n}"
    rows = [_row(f"label_information, {about}", "scikit-learn", ours()[:some].mean(), seconds, theirs().mean(), peer)]
    print(f"    largest difference of a channel: {difference:.1e} nats")

    def of_input() -> np.ndarray:
        return np.asarray(input_information(features))

    of_input()
    rows.append(_row(f"input_information, {about}", "", of_input().mean(), _seconds(of_input, config.repeats)))
    return rows


def _row(
    ours: str, peer: str, value: float, seconds: float, peer_value: float | None = None, peer_seconds: float | None = None
) -> dict[str, Any]:
    line = f"{ours:48} {seconds:8.3f} s  {value:9.5f} nats   {peer:24}"
    ratio = None if peer_seconds is None else peer_seconds / seconds
    if ratio is not None:
        line += f" {peer_seconds:8.3f} s  {peer_value:9.5f} nats   x {ratio:.1f}"
    print(line, flush=True)
    return {
        "work": ours,
        "seconds": seconds,
        "value": float(value),
        "peer": peer,
        "peer_value": peer_value,
        "peer_seconds": peer_seconds,
        "ratio": ratio,
    }


def _estimating(x: np.ndarray, y: np.ndarray, estimator: Any) -> Callable[[], float]:
    return lambda: float(mutual_information(x, y, estimator).value)


def _peer(python: Path | None, name: str, n: int, d: int, repeats: int) -> tuple[float, float] | None:
    """(value, median seconds) of a peer in its own Python; `None`, and a line that says so, where it is not installed."""
    module = name.split()[0]
    if python is None or subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        print(f"{module} skipped: not installed in {python}; pass --peers with a Python that has it")
        return None
    arguments = [name, *map(str, (n, d, KSG().num_neighbors, repeats))]
    done = subprocess.run([python, "-c", _PEER, *arguments], capture_output=True, text=True, check=True)
    value, *times = map(float, done.stdout.split())
    return value, statistics.median(times)


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
