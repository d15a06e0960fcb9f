"""Conductance at 224x224 beside Captum and torch: time at equal nodes and at equal error, memory, what a node costs.

    python -m benchmarks.conductance --out docs/performance/conductance.json

Weights are random, images normal noise, everything is float32, and the layers are those of the network's default set that are
modules of torchvision's network. Captum computes one layer a call. Parts, each to be had alone (`--parts`):

- errors: relative L2 error of a layer's conductance against 1,023 steps of the default rule (the trapezoid rule), mean over
    layers and images, by number of steps, of the default rule, the rescale rule and Captum's (`ipjax.quadrature.captum`, which
    gives Captum's numbers: its difference from Captum itself is shown for a layer); of the digits checkpoint, which is trained,
    and of ResNet-50 with one image. From the log-log curves: the steps of ours that leave the error of 50 of Captum's;
- speed: ours beside Captum at equal steps (trapezoid rule), and at equal error (rescale rule, by the steps found for the
    digits checkpoint and by those found for the very network and image that are timed). Where `share` is below 1, Captum is
    timed on that share of the layers, evenly spread, and its time is divided by the share;
- node: a node of ours (forward, backward to all layers, products) beside torch's forward and backward to the input, in both of
    torch's layouts, with parameters that take no gradient; its floating-point operations a second beside those of a large
    matrix product; a node of the rescale rule over one of the trapezoid rule; and what a second target in the same call adds
    to the time;
- memory: peak of a process that computes once, beyond what it held before, ours of all layers and Captum's of one.

Needs the extra `test`. Takes more than half an hour on two cores; `--quick` leaves out VGG-16, larger batches and the errors at
224x224, and takes ten.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import ipjax
import ports
from benchmarks.cost import products
from benchmarks.environment import (
    begin,
    in_process,
    median_seconds,
    memory_held,
    paired,
    print_table,
    print_values,
    write,
)
from ipjax.data.digits import digits_in_clutter
from ipjax.quadrature import Quadrature, captum, rescale, trapezoid
from ipjax.readout import channel_sum
from ipjax.tolerance import relative_error
from tests import torch_reference
from tests.torch_reference import torch

Part = Literal["errors", "speed", "node", "memory"]
SIDE, TARGET, REFERENCE, CAPTUMS_STEPS = 224, 3, 1023, 50
RULES = {"trapezoid": trapezoid, "rescale": rescale, "captum": captum}
CURVES = {"digits": "digits", "own": "random weights, 224x224"}  # of errors; the second of what is timed itself
CAPTUMS_BATCH = 32  # nodes x images that Captum evaluates at once where it is timed, so that eight images fit into memory
ByLayer = dict[str, jax.Array]


@dataclass(frozen=True)
class Case:
    """A comparison of speed; `share` of the layers are timed with Captum."""

    network: str
    images: int
    steps: int
    share: float = 1.0


NODES = (("resnet50", 1, 12), ("resnet50", 8, 4), ("vgg16", 1, 4))  # network, images, nodes
CASES = (
    Case("resnet50", 1, CAPTUMS_STEPS, 0.3),
    Case("resnet50", 8, 8, 0.3),
    Case("vgg16", 1, 16, 0.2),
    Case("vgg16", 8, 4, 0.2),
)
PEAKS = (("resnet50", "layer1.0", CAPTUMS_STEPS), ("vgg16", "features.1", 16))  # network, Captum's layer, steps


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    parts: tuple[Part, ...] = ("errors", "speed", "node", "memory")
    quick: bool = False
    """one image of ResNet-50 alone, and errors of the digits checkpoint alone"""
    steps: tuple[int, ...] = (8, 11, 16, 32, 50, 64)
    """of all rules, for the errors"""
    digits: int = 8
    """images of the digits checkpoint, for the errors"""
    repeats: int = 3
    """of each timing but Captum's, which is called once after a warm-up call; medians are printed"""
    out: Path | None = None
    """where to write the numbers as JSON; parts that are there and not asked for are kept"""


@dataclass(frozen=True)
class Pair:
    """The same network in both frameworks, and the layers that both have."""

    net: ipjax.Network
    model: Any
    layers: tuple[str, ...]


def main(config: Config) -> dict[str, Any]:
    """Prints the comparison and returns its numbers."""
    if len(config.steps) < 2 or list(config.steps) != sorted(set(config.steps)) or config.steps[0] < 1:
        raise ValueError(f"steps: expected at least two numbers from 1 on in ascending order, got {list(config.steps)}")
    numbers = begin(config.out)
    for part in config.parts:
        numbers[part] = []
        for row in PARTS[part](config, numbers):
            numbers[part].append(row)
            write(config.out, numbers)
        write(config.out, numbers)  # with what a part adds at its end
        print_table(numbers[part])
    return numbers


def errors(config: Config, numbers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of the rules by number of steps; and what equal error takes."""
    digits = ports.load("resnet50", "digits"), digits_in_clutter("test", config.digits).images
    equal = {}
    cases: dict[str, tuple[ipjax.Network, np.ndarray, Pair | None]] = {CURVES["digits"]: (*digits, None)}
    if not config.quick:
        pair = _pair("resnet50")
        cases[CURVES["own"]] = (pair.net, _images(1), pair)
    for name, (net, x, pair) in cases.items():
        layers = _layers(net, x)
        exact = _conductance(net, x, layers, trapezoid(REFERENCE))
        curves: dict[str, list[float]] = {rule: [] for rule in RULES}
        for steps in config.steps:
            for rule, curve in curves.items():
                values = _conductance(net, x, layers, RULES[rule](steps))
                curve.append(float(np.mean([relative_error(values[layer], exact[layer]) for layer in layers])))
            yield {"network": name, "steps": steps} | {rule: curve[-1] for rule, curve in curves.items()}
        wanted = _at(CAPTUMS_STEPS, config.steps, curves["captum"])
        equal |= {
            f"{name}, {rule}": _at(wanted, curve[::-1], config.steps[::-1])
            for rule, curve in curves.items()
            if rule != "captum"
        }
        if pair is not None:
            numbers["captum_itself"] = _captum_itself(pair, x, exact)
            print_values(numbers["captum_itself"])
    numbers["steps_for_captums_error"] = equal
    print(f"steps of ours that leave the error of {CAPTUMS_STEPS} of Captum's:")
    print_values(equal)


def _captum_itself(pair: Pair, x: np.ndarray, exact: ByLayer, steps: int = 200) -> dict[str, float]:
    """On the last layer: Captum's values beside ours by its rule, and Captum with many steps beside the reference."""
    layer = pair.layers[-1]
    captums = partial(_captum, pair, torch_reference.to_torch(x), [layer])
    theirs = jnp.asarray(torch_reference.to_numpy(captums(CAPTUMS_STEPS)[0]))
    ours = _conductance(pair.net, x, (layer,), captum(CAPTUMS_STEPS))[layer]
    many = jnp.asarray(torch_reference.to_numpy(captums(steps, internal_batch_size=CAPTUMS_BATCH)[0]))
    return {
        "difference_of_the_rule": relative_error(ours, theirs),
        f"captum_{steps}_steps_error": relative_error(many, exact[layer]),
    }


def speed(config: Config, numbers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Seconds of both by case."""
    for case in CASES[:1] if config.quick else CASES:
        pair, x = _pair(case.network), _images(case.images)
        ours = lambda steps, pair=pair, x=x: _conductance(pair.net, x, pair.layers, trapezoid(steps))  # noqa: E731
        some = pair.layers[:: round(1 / case.share)]
        jax.clear_caches()  # so that the first call compiles
        start = time.perf_counter()
        jax.block_until_ready(ours(case.steps))
        row = asdict(case) | {"share": len(some) / len(pair.layers), "layers": len(pair.layers)}
        row["first_call"] = time.perf_counter() - start
        before = median_seconds(partial(ours, case.steps), config.repeats)
        captums = partial(_captum, pair, torch_reference.to_torch(x), some, case.steps, internal_batch_size=CAPTUMS_BATCH)
        _captum(pair, torch_reference.to_torch(x[:1]), some[-1:], 1)
        theirs = median_seconds(captums, 1, warm=False) * len(pair.layers) / len(some)
        row |= {"ours": (before + median_seconds(partial(ours, case.steps), config.repeats)) / 2, "captum": theirs}
        row["ratio"] = theirs / row["ours"]
        wanted = numbers.get("steps_for_captums_error", {}) if case == CASES[0] else {}
        for curve, network in CURVES.items():
            if (found := wanted.get(f"{network}, rescale")) is not None:
                steps = max(1, math.ceil(found))
                fewer = partial(_conductance, pair.net, x, pair.layers, rescale(steps))
                seconds = median_seconds(fewer, config.repeats)
                row |= {f"{curve}_steps": steps, f"{curve}_s": seconds, f"{curve}_ratio": theirs / seconds}
        yield row


def node(config: Config, numbers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Seconds of a node an image, and what it reaches of the machine."""
    matrix = jnp.ones((4096, 4096))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    ceiling = 2 * 4096**3 / median_seconds(partial(product, matrix), config.repeats)
    for network, count, nodes in NODES[:1] if config.quick else NODES:
        pair, x = _pair(network), _images(count)
        ours = partial(_conductance, pair.net, x, pair.layers, trapezoid(nodes - 1), channel_sum)
        row: dict[str, Any] = {"network": network, "images": count, "nodes": nodes}
        for layout in ("contiguous_format", "channels_last"):
            memory_format = getattr(torch, layout)
            model = pair.model.to(memory_format=memory_format)
            of_torch = torch_reference.to_torch(x).contiguous(memory_format=memory_format)
            both = paired(ours, partial(_passes, model, of_torch), config.repeats)
            name = "nchw" if layout == "contiguous_format" else layout
            row |= {"node_s": both.a / nodes / count, f"torch_{name}_s": both.b / count}
            row |= {f"ratio_{name}": both.ratio / nodes, f"range_{name}": [both.lowest / nodes, both.highest / nodes]}
        operations = 2 * products(lambda net, x: net(x), pair.net, _images(1))
        row |= {"gflop_s": operations / row["node_s"] / 1e9, "product_gflop_s": ceiling / 1e9}
        row["share_of_product"] = row["gflop_s"] / row["product_gflop_s"]
        rescaled = partial(_conductance, pair.net, x, pair.layers, rescale(nodes - 1), channel_sum)
        row["rescale"] = paired(rescaled, ours, config.repeats).ratio
        second = paired(partial(_toward, pair, x, 2), partial(_toward, pair, x, 1), config.repeats)
        yield row | {"second_target": second.ratio - 1}


def memory(config: Config, numbers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Peaks beyond what the processes held with networks and images loaded."""
    for network, layer, steps in PEAKS[:1] if config.quick else PEAKS:
        found = {}
        for side, function in (("ours", _compute_ours), ("captum", _compute_captums)):
            before, peak = in_process(function, network, layer, steps)
            found[f"{side}_gib"] = (peak - before) / 2**30
        yield {"network": network, "steps": steps, "captums_layer": layer} | found


PARTS: dict[Part, Callable[[Config, dict[str, Any]], Iterator[dict[str, Any]]]] = {
    "errors": errors,
    "speed": speed,
    "node": node,
    "memory": memory,
}


def _compute_ours(network: str, layer: str, steps: int) -> int:
    pair, x = _pair(network), _images(1)
    before = memory_held()
    jax.block_until_ready(_conductance(pair.net, x, pair.layers, trapezoid(steps)))
    return before


def _compute_captums(network: str, layer: str, steps: int) -> int:
    pair, x = _pair(network), torch_reference.to_torch(_images(1))
    before = memory_held()
    _captum(pair, x, [layer], steps)
    return before


def _pair(network: str) -> Pair:
    model = torch_reference.network(network).requires_grad_(False)
    with TemporaryDirectory() as folder:
        net = ports.load(network, torch_reference.save(model, Path(folder) / "random.safetensors"))
    return Pair(net, model, _layers(net, _images(1)))


def _layers(net: ipjax.Network, x: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name in net.layers(x) if name not in ("input", "avgpool"))


def _images(number: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((number, SIDE, SIDE, 3)).astype(np.float32)


def _conductance(net: ipjax.Network, x: np.ndarray, layers: tuple[str, ...], rule: Quadrature, readout: Any = None) -> ByLayer:
    return ipjax.layer_conductance(net, x, layers=layers, target=TARGET, quadrature=rule, readout=readout)


def _captum(pair: Pair, x: Any, layers: Any, steps: int, **settings: Any) -> list[Any]:
    from captum.attr import LayerConductance

    conductances = [LayerConductance(pair.model, pair.model.get_submodule(name)) for name in layers]
    return [conductance.attribute(x, target=TARGET, n_steps=steps, **settings) for conductance in conductances]


def _passes(model: Any, x: Any) -> None:
    x = x.detach().requires_grad_(True)
    torch.autograd.grad(model(x)[:, TARGET].sum(), x)


def _toward(pair: Pair, x: np.ndarray, targets: int) -> ByLayer:
    """Conductance to several targets in one call, which share the passes forward."""
    weights = jnp.broadcast_to(jnp.eye(1000)[:targets, None], (targets, len(x), 1000))
    return ipjax.layer_conductance(
        pair.net, x, layers=pair.layers, target=weights, quadrature=trapezoid(11), readout=channel_sum
    )


def _at(x: float, xs: Any, ys: Any) -> float:
    """Interpolated (or, outside, from the nearest two points extrapolated) on logarithmic axes; `xs` ascending."""
    logs, values = np.log(np.asarray(xs, float)), np.log(np.asarray(ys, float))
    i = int(np.clip(np.searchsorted(logs, np.log(x)), 1, len(logs) - 1))
    slope = (values[i] - values[i - 1]) / (logs[i] - logs[i - 1])
    return float(np.exp(values[i] + slope * (np.log(x) - logs[i])))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
