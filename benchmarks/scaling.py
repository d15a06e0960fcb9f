"""How time and memory grow: with images, path nodes, layers, samples and features, and step by step in a run.

    python -m benchmarks.scaling --out docs/performance/scaling.json

Every series is a row: what was measured, against what, at which sizes, and the exponent b of y = a x^b, fitted by least
squares to the logarithms over the upper half of the sizes (`fitted`), where overhead counts least. Parts (`--parts`):

- conductance: seconds of all layers of the digits ResNet-50 at 32x32, against images, steps and layers. Expected 1, 1 and
    far less than 1: all layers share the passes;
- memory: what XLA plans for ResNet-50 at 224x224 beyond images and weights, against steps at a fixed block (expected 0), and
    against the block of images x nodes evaluated together (expected 1), with the bytes of an image at a node;
- estimators: seconds against samples (pairwise ones: 2) and features (pairwise 1, where covariances are solved 3 at most),
    and the memory that XLA plans against samples (at most 1, since rows come in blocks);
- run: seconds of every step of a run of the main program on digits, and its peak memory in a process of its own, against
    images; the second of two runs in one process, which finds its code compiled.

Takes about nine minutes on two cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import ipjax
import ports
from benchmarks.environment import begin, in_process, median_seconds, print_table, write
from benchmarks.memory import beyond_the_data
from experiments import runner
from experiments.config import Config as RunConfig
from ipjax.channels import input_information, label_information
from ipjax.data.digits import digits_in_clutter
from ipjax.estimators import KDE, KSG, Binned, GaussianChannel, Labels, Probe, Renyi, Ross, mutual_information
from ipjax.quadrature import trapezoid
from ipjax.readout import channel_sum

Part = Literal["conductance", "memory", "estimators", "run"]
Row = dict[str, Any]
CLASSES = 10
STEPS_OF_A_RUN = {  # of the runner, by the names of its functions
    "_extract": "features",
    "measure_second": "plane by Rényi",
    "measure_channels": "channels",
    "measure_ablation": "ablation",
    "rank_layers": "ranking",
    "attribute_typical": "attribution",
    "draw": "figures",
}


@dataclass(frozen=True)
class Config:
    """Sizes of the series."""

    parts: tuple[Part, ...] = ("conductance", "memory", "estimators", "run")
    images: tuple[int, ...] = (64, 128, 256, 512, 1024)
    steps: tuple[int, ...] = (64, 128, 256, 512, 1024)
    blocks: tuple[int, ...] = (1, 2, 4, 8)
    """of images, at one node, and of nodes, at one image"""
    samples: tuple[int, ...] = (1000, 2000, 4000, 8000)
    features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    run_images: tuple[int, ...] = (250, 500, 1000)
    side: int = 224
    """pixels, of the memory of ResNet-50"""
    repeats: int = 3
    """of each timing; medians are taken"""
    out: Path | None = None
    """where to write the numbers as JSON; parts that are there and not asked for are kept"""


def main(config: Config) -> dict[str, Any]:
    """Prints the series as they come and returns them."""
    numbers = begin(config.out)
    numbers["series"] = [row for row in numbers.get("series", []) if row["part"] not in config.parts]
    for part in config.parts:
        rows = []
        for row in PARTS[part](config):
            rows.append({"part": part} | row)
            numbers["series"].append(rows[-1])
            write(config.out, numbers)
        print_table({key: value for key, value in row.items() if key not in ("x", "y")} for row in rows)
    return numbers


def series(what: str, unit: str, against: str, x: Any, y: Any, expected: str) -> Row:
    """A row, with the exponent over the upper half of the sizes."""
    x, y = [float(value) for value in x], [float(value) for value in y]
    upper = slice(-(len(x) // 2 + 1), None)
    exponent = float(np.polyfit(np.log(x[upper]), np.log(y[upper]), 1)[0])
    row = {"what": what, "unit": unit, "against": against, "exponent": exponent, "expected": expected}
    return row | {"fitted": f"{x[upper][0]:g} to {x[-1]:g}", "last": y[-1], "x": x, "y": y}


def conductance(config: Config) -> Iterator[Row]:
    """Seconds of a small network."""
    net = ports.load("resnet50", "digits")
    images = digits_in_clutter("test", max(config.images)).images
    layers = net.layers(images[:1])

    def seconds(num_images: int, num_steps: int, num_layers: int) -> float:
        some = [layers[i] for i in np.linspace(0, len(layers) - 1, num_layers).round().astype(int)]
        rule = trapezoid(num_steps)
        work = partial(ipjax.layer_conductance, net, images[:num_images], layers=some, target="contrast", quadrature=rule)
        return median_seconds(partial(work, readout=channel_sum), config.repeats)

    some = [2**i for i in range(len(layers)) if 2**i < len(layers)] + [len(layers)]
    of_images = [seconds(n, 8, len(layers)) for n in config.images]
    yield series("conductance", "s", "images", config.images, of_images, "1")
    of_steps = [seconds(8, n, len(layers)) for n in config.steps]
    yield series("conductance", "s", "steps", config.steps, of_steps, "1")
    yield series("conductance", "s", "layers", some, [seconds(8, 16, n) for n in some], "far below 1")


def memory(config: Config) -> Iterator[Row]:
    """Temporary memory of the compiled conductance of all default layers, one target."""
    net = ports.load("resnet50", "random")

    def planned(num_images: int, nodes: int, num_steps: int) -> int:
        def conduct(net: ipjax.Network, x: jax.Array) -> dict[str, jax.Array]:
            rule = trapezoid(num_steps)
            return ipjax.layer_conductance(net, x, target="contrast", quadrature=rule, readout=channel_sum, nodes_at_once=nodes)

        x = jax.ShapeDtypeStruct((num_images, config.side, config.side, 3), jnp.float32)
        analysis = jax.jit(conduct).lower(net, x).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    # As many steps as chunks of four nodes take without a remainder.
    steps = [4 * n - 1 for n in config.blocks]
    yield series("conductance, 1 image x 4 nodes", "B", "steps", steps, [planned(1, 4, n) for n in steps], "0")
    for name, sizes in (("images", [(n, 1) for n in config.blocks]), ("nodes", [(1, n) for n in config.blocks])):
        found = [planned(images, nodes, 4 * nodes - 1) for images, nodes in sizes]
        row = series(f"conductance, block of {name}", "B", f"{name} at once", config.blocks, found, "1")
        yield row | {"bytes_each": (found[-1] - found[0]) / (config.blocks[-1] - config.blocks[0])}


def estimators(config: Config) -> Iterator[Row]:
    """Seconds after compiling, and planned memory."""
    largest, features = max(config.samples), config.features[0]
    rng = np.random.default_rng(0)
    labels = np.arange(largest) % CLASSES
    means = rng.standard_normal((CLASSES, max(config.features)))
    x = (rng.standard_normal((largest, max(config.features))) + 0.3 * means[labels]).astype(np.float32)
    y = (x[:, :features] + rng.standard_normal((largest, features))).astype(np.float32)
    pairwise = {"samples": "2", "features": "1 at most"}
    cases: dict[str, tuple[Any, Any, dict[str, str]]] = {
        "KDE, label": (KDE(0.1), labels, pairwise),
        "KDE, input": (KDE(0.1), np.arange(largest), pairwise),
        "Rényi, label": (Renyi(), labels, pairwise),
        "KSG": (KSG(), y, pairwise),
        "Ross": (Ross(), labels, pairwise),
        "Gaussian channel": (GaussianChannel(0.1), labels, {"samples": "1", "features": "2 to 3"}),
        "Probe": (Probe(), labels, {"samples": "1", "features": "2 to 3"}),
        "Binned": (Binned(30), labels, {"samples": "1", "features": "1"}),
    }

    def seconds(estimator: Any, n: int, d: int, other: np.ndarray) -> float:
        return median_seconds(lambda: mutual_information(x[:n, :d], other[:n], estimator).value, config.repeats)

    for name, (estimator, other, expected) in cases.items():
        times = [seconds(estimator, n, features, other) for n in config.samples]
        yield series(name, "s", "samples", config.samples, times, expected["samples"])
        times = [seconds(estimator, config.samples[0], d, other) for d in config.features]
        yield series(name, "s", "features", config.features, times, expected["features"])
        sizes = [beyond_the_data(estimator, *_shapes(other, n, features)) for n in config.samples]
        yield series(name, "B", "samples", config.samples, sizes, "1 at most")
    for name, beside in (("alone", {}), ("with 19 nulls", {"num_null": 19}), ("with 10 halves", {"num_subsamples": 10})):
        settings = {"input_information": KDE(0.1), "label_information": KDE(0.1), "num_null": 0, "num_subsamples": 0} | beside
        work = [partial(ipjax.measure_plane, {"layer": x[:n, :features]}, labels[:n], **settings) for n in config.samples]
        times = [median_seconds(lambda call=call: call().records[0]["label_information"], config.repeats) for call in work]
        yield series(f"KDE, plane {name}", "s", "samples", config.samples, times, "2")
    channels: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
        "channels, label": (label_information, (labels,), "1"),
        "channels, input": (input_information, (), "2 at most"),
    }
    for name, (function, others, expected) in channels.items():
        work = [partial(function, x[:n, :features], *(other[:n] for other in others)) for n in config.samples]
        times = [median_seconds(call, config.repeats) for call in work]
        yield series(name, "s", "samples", config.samples, times, expected)


def _shapes(other: np.ndarray, n: int, d: int) -> tuple[Any, Any]:
    """Shapes of features and of what they are to tell, of labels as estimators get them."""
    x = jax.ShapeDtypeStruct((n, d), jnp.float32)
    if other.dtype == np.float32:
        return x, x
    distinct = other[CLASSES] != other[0]  # every sample has its own
    return x, Labels(jax.ShapeDtypeStruct((n,), jnp.int32), n if distinct else CLASSES, distinct=distinct)  # pyright: ignore[reportArgumentType]


def run(config: Config) -> Iterator[Row]:
    """Seconds of every step, and the peak of the process, by the number of digits."""
    found = [in_process(_times_of_a_run, n) for n in config.run_images]
    for step in found[0][0]:
        yield series(step, "s", "images", config.run_images, [times[step] for times, _ in found], "2 at most")
    yield series("peak of the process", "B", "images", config.run_images, [peak for _, peak in found], "1 at most")


def _times_of_a_run(num_images: int) -> dict[str, float]:
    """Seconds of the steps in the second of two runs; of planes by estimator."""
    times: dict[str, float] = {}

    def timing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **settings)
            estimator = type(settings["label_information"]).__name__ if "label_information" in settings else ""
            if estimator != "Renyi":  # has its own step
                times[name + estimator] = times.get(name + estimator, 0) + time.perf_counter() - start
            return result

        return timed

    layers = ("input", "layer3.5", "avgpool")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for function, name in STEPS_OF_A_RUN.items():
            stack.enter_context(patch.object(runner, function, timing(name, getattr(runner, function))))
        stack.enter_context(patch.object(runner.report, "write", timing("page", runner.report.write)))
        stack.enter_context(patch.object(ipjax, "measure_plane", timing("plane by ", ipjax.measure_plane)))
        stack.enter_context(patch.object(ipjax, "profile", timing("noise profile", ipjax.profile)))
        for name in ("first", "second"):
            times.clear()
            compiled, out = Path(folder) / "compiled", Path(folder) / name
            runner.run(name, RunConfig(num_images=num_images, num_steps=2, layers=layers, compiled=compiled, out=out))
    return times


PARTS: dict[Part, Callable[[Config], Iterator[Row]]] = {
    "conductance": conductance,
    "memory": memory,
    "estimators": estimators,
    "run": run,
}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
