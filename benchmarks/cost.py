"""What a run costs on a device that is not at hand: hours and disk, from operations and bytes.

    python -m benchmarks.cost --network resnet50 --num-images 10000

Counted, for one image: the operations of a pass forward and of a path node, by XLA, of the lowered and not compiled computation
that `experiments.features.Extraction` runs, and by hand, from the sizes of the products in it; what the layers' activations and
gradients move through the device's memory; the bytes of what is stored. The network does not run for that. Then

    operations an image = nodes x (forward + 3 targets x backward to all layers) + 3 x forward
    hours of the network by operations = images x operations an image / (peak x share x devices x hosts)
    hours by memory, at most = images x nodes x bytes moved / (peak bandwidth x share x devices x hosts)
    operations of KDE = n² x layers x (2 x features x evaluations + 4 x classes x labellings), over all representations

The backward passes take no gradient with respect to parameters, so each costs as much as the pass forward. One forward is of
the activations, two are of the completeness gap. The share of peak is an ASSUMPTION (`--share`), not a measurement. Of this
machine's CPU a conductance and a large matrix product are timed instead. Single channels are sorted by the CPU of a host and
are timed here too. Not counted: reading images, compiling, figures, the permutation of units in the sketch (its size is
printed), nuisances. Takes two to three minutes on two cores, most of it for the timing, which `--no-measure` leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
from benchmarks.environment import median_seconds, print_values, write
from experiments.features import RULE, SKETCH, TARGETS, Extraction, _activations, _conductances
from experiments.measuring import NOISES
from experiments.selection import preprocessing_of
from ipjax.estimators import Probe
from ipjax.estimators.kde import _FEW_CLASSES, _HELD
from ipjax.estimators.probe import _INVERSE_TEMPERATURES
from ipjax.models import convolution
from ipjax.readout import CountSketch, Readout, channel_sum
from ipjax.runtime import _MEMORY_SHARE

NULLS, HALVES, CHANNEL_NULLS = 19, 10, 9  # of measure_plane and measure_channels
GIGA, TERA, HOUR = 1e9, 1e12, 3600


@dataclass(frozen=True)
class Device:
    """Peaks by the maker's data sheet: TFLOP/s by the precision of the network and GB/s; GB of memory that JAX takes."""

    peaks: dict[str, float]
    bandwidth: float
    memory: float


DEVICES = {
    # A TPU multiplies in bfloat16; float32 takes 6 such products in "highest", 3 in "high" and 1 in "default".
    "TPU v5e": Device({"highest": 197 / 6, "high": 197 / 3, "default": 197, "bfloat16": 197}, 819, 16),
    "TPU v4": Device({"highest": 275 / 6, "high": 275 / 3, "default": 275, "bfloat16": 275}, 1228, 32),
    # On these GPUs "high" and "default" are both tensorfloat32. JAX takes three quarters of a GPU's memory.
    "H100 SXM": Device({"highest": 67, "high": 494, "default": 494, "bfloat16": 989}, 3350, 0.75 * 80),
    "A100 80 GB": Device({"highest": 19.5, "high": 156, "default": 156, "bfloat16": 312}, 2039, 0.75 * 80),
}


@dataclass(frozen=True)
class Config:
    """The run; what is not here is as in the experiments' defaults."""

    network: str = "resnet50"
    weights: str = "random"
    """random stands for any published ones: costs depend on sizes alone"""
    num_images: int = 10_000
    num_steps: int = 16
    layers: tuple[str, ...] | None = None
    """by name, or all; default: the network's own"""
    readout: Literal["sketch", "channel"] = "sketch"
    devices: int = 1
    """of a host"""
    hosts: int = 1
    share: float = 0.3
    """of peak that the devices reach: an assumption"""
    measure: bool = True
    """times the CPU of this machine"""
    out: Path | None = None
    """where to write the numbers as JSON"""


@dataclass(frozen=True)
class Image:
    """What one image takes, or one image at one path node.

    **Attributes:**

    - `forward`, `node`, `rest`: operations of a pass forward, of a path node, and of what is done once beside the nodes.
    - `moved`: bytes of activations and gradients that a node writes and reads, at most: compiled code keeps fewer.
    - `stored`: bytes on disk.
    - `permuted`: units that the sketch permutes for a chunk of nodes.
    """

    forward: float
    node: float
    rest: float
    moved: int
    stored: int
    permuted: int

    def operations(self, num_nodes: int) -> float:
        return num_nodes * self.node + self.rest


def main(config: Config) -> dict[str, Any]:
    """Prints the costs and returns them."""
    net = ports.load(config.network, config.weights)
    side = preprocessing_of(config.network, config.weights, None, None).crop
    shape = (side, side, 3)
    example = np.zeros((1, *shape), np.float32)
    names = net.layers(example, "all" if config.layers == ("all",) else config.layers)
    num_nodes = config.num_steps + 1
    image = of_an_image(net, shape, names, config.readout)
    by_hand = products(lambda net, x: net(x), net, example)
    num_features = [feature.shape[1] for feature in _features(net, shape, names, config.readout)[1].values()]
    num_channels = sum(shape.shape[-1] for name, shape in net.layer_shapes(example).items() if name in names)
    n, num_classes = config.num_images, net.logits_shape(example).shape[1]
    kde, probe = kde_operations(n, num_features, num_classes), probe_operations(n, num_features, num_classes)
    numbers: dict[str, Any] = {
        "network": f"{config.network}, {side} x {side}, {len(names)} layers, {num_classes} classes",
        "forward_gflop": image.forward / GIGA,
        "forward_gflop_by_hand": by_hand / GIGA,
        "node_gflop": image.node / GIGA,
        "node_over_forward": image.node / image.forward,
        "rest_over_forward": image.rest / image.forward,
        "nodes": num_nodes,
        "image_gflop": image.operations(num_nodes) / GIGA,
        "moved_gb_an_image": num_nodes * image.moved / GIGA,
        "permuted_units_a_chunk": image.permuted,
        "stored_bytes_an_image": image.stored,
        "disk_gb": n * image.stored / GIGA,
        "kde_tflop": kde / TERA,
        "probe_tflop": probe / TERA,
    }
    print_values(numbers)
    print(f"\nimage_gflop = {num_nodes} x {numbers['node_gflop']:.2f} + {image.rest / GIGA:.2f}")
    print(f"hours for {n} images on {config.hosts} x {config.devices} devices, ASSUMING {config.share:.0%} of peak;")
    print("images/s a host are what the operations alone would allow, which reading must keep up with:\n")
    print(f"{'device':12}{'precision':11}{'TFLOP/s':>8}{'by operations':>15}", end="")
    print(f"{'by memory <=':>14}{'estimators':>12}{'images/s':>10}")
    numbers["devices"] = [
        _row(name, precision, config, image, kde, probe) for name, device in DEVICES.items() for precision in device.peaks
    ]
    for row in numbers["devices"]:
        print(
            f"{row['device']:12}{row['precision']:11}{row['peak']:8.1f}{row['operations_hours']:15.3f}"
            f"{row['memory_hours_at_most']:14.3f}{row['estimators_hours']:12.3f}{row['images_a_second_a_host']:10.1f}"
        )
    print("\nimages x nodes that a device's memory holds in float32, by the rule of ipjax.runtime.block:")
    for name, device in DEVICES.items():
        print(f"{name:12}{int(_MEMORY_SHARE * device.memory * GIGA / (image.moved / 2)):6d}")
    if config.measure:
        numbers["this_cpu"] = measured = _measure(net, shape, names, config, image)
        for part, work in (("network", n * image.operations(num_nodes)), ("estimators", kde + probe)):
            measured[f"{part}_hours"] = work / (measured["gflop_a_second"] * GIGA) / HOUR
        passes = len(TARGETS) * (1 + CHANNEL_NULLS)  # activation and two targets
        measured["channels_hours"] = passes * num_channels * measured["seconds_a_channel"] / HOUR
        print("\nmeasured on this machine's CPU:")
        print_values(measured)
    write(config.out, numbers)
    return numbers


def _row(name: str, precision: str, config: Config, image: Image, kde: float, probe: float) -> dict[str, Any]:
    """Hours of a run on devices of one kind."""
    device, num_nodes, all_devices = DEVICES[name], config.num_steps + 1, config.devices * config.hosts
    width = 0.5 if precision == "bfloat16" else 1  # of a number, beside float32
    peak = device.peaks[precision]
    by_operations = image.operations(num_nodes) / (peak * TERA * config.share)  # seconds an image and device
    by_memory = num_nodes * image.moved * width / (device.bandwidth * GIGA * config.share)
    of_estimators = (kde / all_devices + probe) / (device.peaks["highest"] * TERA * config.share)  # a probe runs on one device
    return {
        "device": name,
        "precision": precision,
        "peak": peak,
        "operations_hours": config.num_images * by_operations / all_devices / HOUR,
        "memory_hours_at_most": config.num_images * by_memory / all_devices / HOUR,
        "estimators_hours": of_estimators / HOUR,
        "images_a_second_a_host": config.devices / by_operations,
    }


def of_an_image(net: ipjax.Network, shape: tuple[int, ...], names: tuple[str, ...], readout: str) -> Image:
    """Counts of one image. A scan's body counts once, so paths of two and three nodes, at once, tell a node from the rest."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    targets = jax.ShapeDtypeStruct((len(TARGETS), *net.logits_shape(x).shape), jnp.float32)
    of_units = _readout(readout)
    conductances = partial(_conductances, names=names, readout=of_units)
    two, three = (
        operations(partial(conductances, quadrature=RULE(nodes - 1), nodes_at_once=nodes), net, x, targets) for nodes in (2, 3)
    )
    forward = operations(lambda net, x: net(x), net, x)
    once = operations(partial(_activations, names=names, readout=of_units), net, x)
    shapes = net.layer_shapes(x)
    moved = 2 * (1 + len(TARGETS)) * sum(layer.size * layer.dtype.itemsize for layer in shapes.values())
    units = [shapes[name].size for name in names]
    permuted = len(TARGETS) * sum(size for size in units if isinstance(of_units, CountSketch) and size > of_units.k)
    return Image(forward, three - two, 3 * two - 2 * three + once, moved, stored_bytes(net, shape, names, readout), permuted)


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Of the lowered function, by XLA: a multiplication and an addition are two. Nothing is computed."""
    with as_on_an_accelerator():
        analysis: Any = jax.jit(function).lower(*arguments).cost_analysis()
    return analysis["flops"]


def as_on_an_accelerator() -> AbstractContextManager[Any]:
    """Inside it convolutions are traced without the rows that a CPU computes in vain."""
    return patch.object(convolution, "_rows_to_add", lambda *_: 0)


def products(function: Callable[..., Any], *arguments: Any) -> float:
    """Operations of the convolutions and matrix products in a function, from their sizes alone, borders counted as the rest."""
    total = 0
    with as_on_an_accelerator():
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    for equation in _equations(jaxpr):
        shapes = [variable.aval.shape for variable in equation.invars[:2]] if len(equation.invars) > 1 else []
        result = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.params["dimension_numbers"].rhs_spec  # places of outputs, inputs, space
            total += 2 * result * math.prod(shapes[1]) // shapes[1][kernel[0]]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * result * math.prod(shapes[0][axis] for axis in contracted)
    return float(total)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a jaxpr and of all functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from _equations(inner)


def _readout(name: str) -> Readout:
    return CountSketch(SKETCH) if name == "sketch" else channel_sum


def _features(net: ipjax.Network, shape: tuple[int, ...], names: tuple[str, ...], readout: str) -> tuple[Any, ...]:
    """Shapes of what `Extraction` computes of one image: logits, features and channels of the activations."""
    return jax.eval_shape(
        partial(_activations, names=names, readout=_readout(readout)), net, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )


def stored_bytes(net: ipjax.Network, shape: tuple[int, ...], names: tuple[str, ...], readout: str) -> int:
    """Bytes that `Extraction` gives of an image: features of every representation, channels of all but the random one, and
    gaps by layer; changes, position and predicted class once."""
    _, features, channels = _features(net, shape, names, readout)
    size = 2 * np.dtype(np.int32).itemsize + len(TARGETS) * np.dtype(np.float32).itemsize
    for name in names:
        size += (1 + len(TARGETS)) * features[name].size * 4 + len(TARGETS) * (channels[name].size + 1) * 4
    return size


def kde_operations(n: int, num_features: list[int], num_classes: int) -> float:
    """Of both axes, nulls, halves and noise profile of three representations, and of the label axis alone of the random one.

    Axes, shuffles and noise levels share the distances. A half has a quarter of the pairs, and their distances anew where those
    of all samples are too many to be held.
    """
    halves = HALVES / 4
    plane = 1 + halves if n > _HELD else 1
    labellings = {"label": 1 + NULLS + halves, "profile": len(NOISES)}
    classes = num_classes if num_classes <= _FEW_CLASSES else 1  # else sums run over masks
    of_labels = 4 * n**2 * classes
    total = 0.0
    for d in num_features:
        of_distances = 2 * n**2 * d
        total += len(TARGETS) * (of_distances * (plane + 1) + of_labels * sum(labellings.values()))
        total += of_distances * plane + of_labels * labellings["label"]
    return total


def probe_operations(n: int, num_features: list[int], num_classes: int) -> float:
    """Of the probe on four representations: covariances, solutions and scores, and every temperature's probabilities."""
    probe, total = Probe(), 0.0
    fold = n / probe.num_folds
    for d in num_features:
        solve = d**3 / 3 + 2 * d**2 * num_classes + 4 * fold * d * num_classes
        temper = len(_INVERSE_TEMPERATURES) * 6 * fold * num_classes
        total += probe.num_folds * (2 * (n - 2 * fold) * d**2 + len(probe.ridges) * (solve + temper))
    return (1 + len(TARGETS)) * total


def _measure(
    net: ipjax.Network, shape: tuple[int, ...], names: tuple[str, ...], config: Config, image: Image
) -> dict[str, float]:
    """GFLOP/s of a conductance and of a large product in float32 on this CPU; seconds of a pass over a channel."""
    num_nodes = 12
    extraction = Extraction(net, names, config.readout, num_nodes - 1, 0, 1, num_nodes)
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    num_classes = net.logits_shape(x).shape[1]
    targets = np.full((len(TARGETS), 1, num_classes), 0.1, np.float32)
    seconds = median_seconds(lambda: extraction._conduct(extraction.net, x, targets), 2)
    matrix = jnp.ones((4096, 4096))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    reached = num_nodes * image.node / seconds / GIGA
    large = 2 * 4096**3 / median_seconds(lambda: product(matrix), 2) / GIGA
    labels = np.arange(config.num_images) % min(num_classes, config.num_images // 4)
    channels = np.random.default_rng(0).standard_normal((config.num_images, 64)).astype(np.float32)
    return {
        "gflop_a_second": reached,
        "large_product_gflop_a_second": large,
        "share_of_large_product": reached / large,
        "seconds_a_channel": median_seconds(lambda: ipjax.channels.label_information(channels, labels), 2) / 64,
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
