"""Estimators of mutual information: accuracy and time beside other libraries', equal samples and settings, in one run.

    python -m benchmarks.estimators --environments FOLDER

makes an environment for each of bmi (`benchmark-mi`), infomeasure and NPEET-plus in FOLDER, where it is not there yet;
scikit-learn is a dependency of ours. Two parts:

- accuracy: the median over truths (`tests/truths.py`, from 1 to 10 features a side) and seeds of |estimate - truth|, and the
    median time of an estimate, ours after compiling. Peers have their defaults but for k = 3 neighbours and 10 bins; bmi's
    and scikit-learn's clip at 0, which helps them on independent data. Nothing is tuned on the truths.
- speed: nearest neighbours, single channels and the kernel bracket, at sizes where time matters, ours measured before and
    after each peer; values are printed as well, since only equal work can be compared.

Takes about an hour on two cores: most of it infomeasure's at 64 features, bmi's critics, and our own critics' compiling.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import peers
from benchmarks.environment import environment, median_seconds, timed
from ipjax.channels import input_information, label_information
from ipjax.estimators import (
    KDE,
    KSG,
    NWJ,
    SMILE,
    Binned,
    DonskerVaradhan,
    GaussianChannel,
    InfoNCE,
    Probe,
    Ross,
    mutual_information,
)
from tests.truths import CONTINUOUS, LABELLED, Truth

PINNED = {
    "bmi": ("benchmark-mi==0.1.3", "jax==0.4.30", "jaxlib==0.4.30"),
    "infomeasure": ("infomeasure==0.6.3",),
    "npeet": ("npeet-plus==0.2.0",),
}
WIDTHS = {"d = 1": (1,), "d = 2, 3": (2, 3), "d = 5, 10": (5, 10)}
Sample = tuple[np.ndarray, np.ndarray]
Scores = list[tuple[int, float, float]]  # features, |estimate - truth|, seconds


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    environments: Path | None = None
    """folder of the peers' environments, made where missing; without it scikit-learn is the only peer"""
    python: Path = Path(sys.executable)
    """Python from which the environments are made; bmi's jax needs 3.9 to 3.12"""
    parts: tuple[Literal["accuracy", "speed"], ...] = ("accuracy", "speed")
    num_samples: int = 1000
    """of each sample for accuracy"""
    num_seeds: int = 20
    """for accuracy"""
    large: int = 10_000
    """samples for speed; half as many for single channels"""
    num_features: tuple[int, ...] = (8, 64)
    """on each side, for the speed of KSG"""
    sklearn_channels: int = 64
    """on which scikit-learn is timed, for its time on all 2,048: it works one by one"""
    repeats: int = 3
    """of each of our timings and of the fast peers'; medians are printed"""
    out: Path | None = None
    """where to write the tables as text"""


@dataclass(frozen=True)
class Family:
    """Estimators of one kind, ours by object and the peers' by their name in `benchmarks.peers` with the widths they take."""

    name: str
    table: dict[int, tuple[Truth, ...]]
    ours: dict[str, Any]
    peers: dict[str, tuple[int, ...]]
    num_samples: int | None = None
    num_seeds: int | None = None


_ALL = (1, 2, 3, 5, 10)
_SMALL = {d: truths[:2] for d, truths in CONTINUOUS.items() if d <= 3}
FAMILIES = (
    Family(
        "nearest neighbours, floating y",
        CONTINUOUS,
        {"KSG": KSG(), "KSG 2": KSG(variant=2)},
        {"bmi KSG": _ALL, "infomeasure KSG": _ALL, "infomeasure KSG 2": _ALL, "npeet KSG": _ALL, "sklearn KSG": (1,)},
    ),
    Family(
        "labels",
        LABELLED,
        {
            "Ross": Ross(),
            "Probe": Probe(),
            "KDE 0.05": KDE(0.05),
            "Binned 30": Binned(30),
            "corrected": Binned(30, miller_madow=True),
        },
        {"sklearn Ross": (1,), "npeet mixed": _ALL},
    ),
    Family(
        "cells, floating y",
        {d: CONTINUOUS[d] for d in (1, 2)},
        {
            "Binned 10": Binned(10),
            "Binned 10, corrected": Binned(10, miller_madow=True),
            "Binned 10, quantile": Binned(10, "quantile"),
            "Binned 10, quantile, corrected": Binned(10, "quantile", miller_madow=True),
        },
        {"bmi histogram": (1, 2)},
    ),
    Family(
        "normal model and kernels, floating y",
        CONTINUOUS,
        {"GaussianChannel 0.001": GaussianChannel(1e-3), "KDE 0.05": KDE(0.05)},
        {"bmi CCA": _ALL, "bmi KDE": _ALL},
    ),
    Family(
        "critics, floating y",
        _SMALL,
        {"InfoNCE": InfoNCE(), "NWJ": NWJ(), "DonskerVaradhan": DonskerVaradhan(), "SMILE": SMILE()},
        {"bmi InfoNCE": _ALL, "bmi NWJ": _ALL, "bmi DV": _ALL},
        num_samples=2000,
        num_seeds=2,
    ),
)


def main(config: Config) -> None:
    """Prints the comparison."""
    screen = Console(width=120, highlight=False)
    shown = [screen] if config.out is None else [screen, Console(file=config.out.open("w"), width=120, highlight=False)]

    def show(*lines: Any) -> None:
        for console in shown:
            console.print(*lines, markup=False)

    show(", ".join(f"{name} {value}" for name, value in environment().items()))
    pythons = environments(config)
    if "accuracy" in config.parts:
        for family in FAMILIES:
            show(accuracy(family, config, pythons))
    if "speed" in config.parts:
        for table in speed(config, pythons):
            show(table)


def environments(config: Config) -> dict[str, Path]:
    """Python of each peer; environments that are missing are made."""
    pythons = {"sklearn": Path(sys.executable)}
    if config.environments is not None:
        for name, packages in PINNED.items():
            python = config.environments / name / "bin" / "python"
            if not python.exists():
                subprocess.run([config.python, "-m", "venv", config.environments / name], check=True)
                subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
            pythons[name] = python
    return pythons


def accuracy(family: Family, config: Config, pythons: dict[str, Path]) -> Table:
    """Median error and time of a family's estimators by the number of features."""
    n, seeds = family.num_samples or config.num_samples, family.num_seeds or config.num_seeds
    known = {name: widths for name, widths in family.peers.items() if name.split()[0] in pythons}
    scores: dict[str, Scores] = {}
    with progress(family.name, len(family.ours) + len(known)) as advance:
        for name, estimator in family.ours.items():
            scores[name] = [score for d in family.table for score in _ours(estimator, d, family.table[d], n, seeds)]
            advance()
        for name, widths in known.items():
            scores[name] = [
                score
                for d in family.table
                if d in widths
                for score in _theirs(name, d, family.table[d], n, seeds, pythons[name.split()[0]])
            ]
            advance()
    table = Table(title=f"{family.name}: median |estimate - truth| in nats and median seconds, n = {n}, {seeds} seeds")
    table.add_column("estimator")
    for column in (*WIDTHS, "all"):
        table.add_column(column, justify="right")
        table.add_column("s", justify="right")
    for name, of_name in scores.items():
        cells = [cell for widths in WIDTHS.values() for cell in _medians(of_name, widths)]
        everything = {d for d, *_ in of_name} == set(family.table)
        cells += _medians(of_name, _ALL) if everything else ("-", "-")
        table.add_row(name, *cells)
    return table


def _medians(scores: Scores, widths: tuple[int, ...]) -> tuple[str, str]:
    some = [(error, seconds) for d, error, seconds in scores if d in widths]
    if not some:
        return "-", "-"
    errors, seconds = zip(*some, strict=True)
    return f"{np.median(errors):.4f}", f"{statistics.median(seconds):.3f}"


def _ours(estimator: Any, d: int, truths: tuple[Truth, ...], n: int, seeds: int) -> Scores:
    scores = []
    for truth in truths:
        for seed in range(seeds):
            x, y = truth.sample(n, seed)
            if seed == 0:
                mutual_information(x, y, estimator)  # compiles
            seconds, value = timed(lambda x=x, y=y: float(mutual_information(x, y, estimator).value), 1, warm=False)
            scores.append((d, abs(value - truth.information), seconds))
    return scores


def _theirs(name: str, d: int, truths: tuple[Truth, ...], n: int, seeds: int, python: Path) -> Scores:
    samples = [truth.sample(n, seed) for truth in truths for seed in range(seeds)]
    results = run_peer(name, samples, python)
    known = [truth.information for truth in truths for _ in range(seeds)]
    return [(d, abs(value - truth), seconds) for (value, seconds), truth in zip(results, known, strict=True)]


def run_peer(name: str, samples: list[Sample], python: Path, repeats: int = 1) -> list[tuple[float, float]]:
    """(nats, median seconds) of a peer on each of some samples."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npz"
        arrays: dict[str, Any] = {f"{side}{i}": pair[k] for i, pair in enumerate(samples) for k, side in enumerate("xy")}
        np.savez(path, **arrays)
        command = [python, peers.__file__, name, path, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed in {python}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def speed(config: Config, pythons: dict[str, Path]) -> Iterator[Table]:
    """Times where they matter, and how many times faster we are."""
    table = Table(title="speed: medians in seconds, ours measured before and after each peer")
    for column in ("work", "ours", "nats", "peer", "peer's", "nats", "ratio"):
        table.add_column(column, justify="left" if column in ("work", "peer") else "right")
    with progress("speed", 5 * len(config.num_features) + 3) as advance:
        for d in config.num_features:
            for row in _neighbours(config, d, pythons):
                table.add_row(*row)
                advance()
        for row in (*_channels(config), _bracket(config)):
            table.add_row(*row)
            advance()
    yield table


def _neighbours(config: Config, d: int, pythons: dict[str, Path]) -> Iterator[tuple[str, ...]]:
    n, repeats = config.large, config.repeats
    x, y = np.random.default_rng(0).normal(size=(2, n, d))
    x, y = x / np.sqrt(x.var(axis=0).mean()), y / np.sqrt(y.var(axis=0).mean())  # as KSG scales them: equal work, equal values
    for estimator, other in ((KSG(variant=2), y), (Ross(), np.arange(n) % 10)):
        work = _estimating(x, other, estimator)
        work()
        seconds, value = timed(work, repeats, warm=False)
        yield _row(f"{type(estimator).__name__}{' 2' * (other is y)}, n = {n}, d = {d}", value, seconds)
    work = _estimating(x, y, KSG())
    work()
    for peer, times in (("bmi KSG, as it is", repeats), ("bmi KSG, Euclidean", repeats), ("infomeasure KSG", 1)):
        python = pythons.get(peer.split()[0])
        if python is None:
            continue
        before, value = timed(work, repeats, warm=False)
        ((theirs, peers_seconds),) = run_peer(peer, [(x, y)], python, times)
        seconds = statistics.mean((before, median_seconds(work, repeats, warm=False)))
        yield _row(f"KSG, n = {n}, d = {d}", value, seconds, peer, theirs, peers_seconds)


def _channels(config: Config, channels: int = 2048) -> Iterator[tuple[str, ...]]:
    n, some = config.large // 2, config.sklearn_channels
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, size=n)
    features = rng.normal(size=(n, channels)) + 0.3 * labels[:, None] * rng.uniform(size=channels)
    label_information(features, labels)
    before, found = timed(lambda: np.asarray(label_information(features, labels)), config.repeats, warm=False)
    seconds, theirs = timed(lambda: _sklearn_channels(features[:, :some], labels), 1, warm=False)
    after = median_seconds(lambda: np.asarray(label_information(features, labels)), config.repeats, warm=False)
    difference = np.abs(np.maximum(found[:some], 0) - theirs).max()
    about = f"{channels} channels, n = {n}"
    peer = f"sklearn, largest difference {difference:.0e}"
    ours = statistics.mean((before, after))
    yield _row(f"label_information, {about}", found[:some].mean(), ours, peer, theirs.mean(), seconds * channels / some)
    input_information(features)
    seconds, found = timed(lambda: np.asarray(input_information(features)), config.repeats, warm=False)
    yield _row(f"input_information, {about}", found.mean(), seconds)


def _sklearn_channels(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from sklearn.feature_selection import mutual_info_classif

    return mutual_info_classif(features, labels, random_state=0)


def _bracket(config: Config, d: int = 512) -> tuple[str, ...]:
    """The kernel bracket beside the product of the same matrices, which no pairwise estimator can do without."""
    n = config.large
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(n, d)).astype(np.float32), rng.integers(0, 10, size=n)
    work, product = _estimating(x, labels, KDE(0.05)), jax.jit(lambda x: x @ x.T)
    on_device = jnp.asarray(x)
    work()
    jax.block_until_ready(product(on_device))
    before = median_seconds(lambda: product(on_device), config.repeats, warm=False)
    seconds, value = timed(work, config.repeats, warm=False)
    after = median_seconds(lambda: product(on_device), config.repeats, warm=False)
    return _row(f"KDE with labels, n = {n}, d = {d}", value, seconds, "x @ x.T", float("nan"), statistics.mean((before, after)))


def _row(
    work: str, value: float, seconds: float, peer: str = "", theirs: float | None = None, peers_seconds: float | None = None
) -> tuple[str, ...]:
    if peers_seconds is None:
        return work, f"{seconds:.3f}", f"{value:.5f}", peer, "", "", ""
    return (
        work,
        f"{seconds:.3f}",
        f"{value:.5f}",
        peer,
        f"{peers_seconds:.3f}",
        f"{theirs:.5f}",
        f"x {peers_seconds / seconds:.2f}",
    )


def _estimating(x: np.ndarray, y: np.ndarray, estimator: Any) -> Callable[[], float]:
    return lambda: float(mutual_information(x, y, estimator).value)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows how many of the estimators are done; gives the function that counts one."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


if __name__ == "__main__":
    main(tyro.cli(Config))
