"""How fast, how exact and how large conductance and estimators are on the device that JAX computes on, beside its own limits.

    python -m benchmarks.accelerator --out accelerator.json

Parts, each of which can be asked for alone (`--parts`):

- limits: what the device reaches in a large matrix product at every precision, and copying its memory;
- conductance: all default layers of ResNet-50 with random weights, one target, one feature a channel, by precision and by
    block of images and nodes: images a second, seconds of a node beside a plain pass forward and backward to the input of as
    many images, the share of the large product, the memory of the compiled code, and the change of the values from float64;
    by kernel, where the time of one variant goes (devices that tell). A node is counted as two passes forward;
- program: the features of the main program (four representations, three targets) on one shard, in the block it chooses;
- memory: a block too large for the device, halved until it fits; to have it soon, give JAX little of the memory:
    XLA_PYTHON_CLIENT_MEM_FRACTION=0.02;
- estimators: KDE, probe, nearest neighbours and single channels by number of samples and features.

Numbers are written as they come, so a run that is stopped leaves what it had. Compiled code is not kept between runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array, lax

import ipjax
import ports
from benchmarks.cost import products
from benchmarks.environment import environment, short, timed, write
from experiments.features import TARGETS, Extraction
from experiments.runner import _in_precision
from ipjax import channels, runtime
from ipjax.estimators import KDE, KSG, Probe, mutual_information
from ipjax.models import resnet

Part = Literal["limits", "conductance", "program", "memory", "estimators"]
PRECISIONS = {
    "highest": ("float32", "highest"),
    "high": ("float32", "high"),
    "default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}
KINDS = {  # of kernels, by their names; the first that fits
    "convolution": r"fprop|dgrad|wgrad|implicit|conv(?!ert)|cudnn(?!_fusion)",
    "matrix product": r"gemm|nvjet|cutlass|cublas|dot",
    "copy": r"memcpy|memset|copy|transpose|nchw|nhwc",
    "reduction": r"reduce",
}
LONGEST = 12  # kernels listed
SLOW = 20.0  # seconds: an estimator that would take longer is left out


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    parts: tuple[Part, ...] = ("limits", "conductance", "program", "estimators")
    network: str = "resnet50"
    width: int = 64
    """channels of the stem"""
    side: int = 224
    """pixels"""
    num_steps: int = 16
    precisions: tuple[Literal["highest", "high", "default", "bfloat16"], ...] = ("default", "highest", "bfloat16", "high")
    blocks: tuple[tuple[int, int], ...] = ((8, 9), (16, 9), (8, 17), (1, 17))
    """images x nodes evaluated together; every precision is timed in the first one, the first precision in all"""
    programs: tuple[tuple[str, str], ...] = (("sketch", "highest"), ("sketch", "default"), ("channel", "default"))
    """readout and precision of the program's features"""
    shard_size: int = 64
    """images of the program's shard"""
    samples: tuple[int, ...] = (10_000, 50_000)
    features: tuple[int, ...] = (64, 512)
    product: int = 8192
    """rows and columns of the large matrix product"""
    repeats: int = 3
    """of each timing; medians are printed"""
    compilers: int = 4
    """variants compiled at once; the first is compiled alone, for its time"""
    out: Path | None = None
    """where to write the numbers as JSON"""


@dataclass
class Numbers:
    """What was measured so far, printed and written at once."""

    out: Path | None
    found: dict[str, Any] = field(default_factory=dict)

    def add(self, part: str, row: dict[str, Any]) -> None:
        self.found.setdefault(part, []).append(row)
        print(f"{part}: " + "  ".join(f"{key} {short(value)}" for key, value in row.items()), flush=True)
        write(self.out, self.found)


def main(config: Config) -> dict[str, Any]:
    """Prints what was measured and returns it."""
    numbers = Numbers(config.out)
    device = jax.local_devices()[0]
    about = {"device": device.device_kind, "devices": jax.local_device_count(), "bytes_limit": _bytes_limit()}
    numbers.add("environment", environment() | about)
    for part in config.parts:
        PARTS[part](config, numbers)
    return numbers.found


def limits(config: Config, numbers: Numbers) -> None:
    """TFLOP/s of a large matrix product at every precision, and GB/s of a copy, bytes read and written."""
    n = config.product
    for name, (dtype, precision) in PRECISIONS.items():
        one, other = (jax.random.normal(jax.random.key(seed), (n, n), jnp.float32).astype(dtype) for seed in (0, 1))
        product = jax.jit(partial(jnp.matmul, precision=precision))
        seconds, _ = timed(lambda product=product, one=one, other=other: product(one, other), config.repeats)
        numbers.add("limits", {"product": name, "tflop_s": 2 * n**3 / seconds / 1e12})
    values = jax.random.normal(jax.random.key(0), (4 * n, n), jnp.float32)
    copy = jax.jit(lambda values: values + 1)
    seconds, _ = timed(lambda: copy(values), config.repeats)
    numbers.add("limits", {"copy": f"{values.nbytes / 1e9:.2f} GB", "gb_s": 2 * values.nbytes / seconds / 1e9})


@dataclass(frozen=True)
class Variant:
    """How conductance is computed; of the work "passes" it is a plain pass forward and backward to the input, of "passes,
    lax" one with JAX's own convolutions."""

    precision: str
    images: int
    nodes: int
    work: str = "conductance"

    @property
    def row(self) -> dict[str, Any]:
        return {"work": self.work, "precision": self.precision, "images": self.images, "nodes": self.nodes}


def conductance(config: Config, numbers: Numbers) -> None:
    """Rows of every variant."""
    first = config.blocks[0]
    variants = [Variant(config.precisions[0], *first)]
    variants += [Variant(precision, *first) for precision in config.precisions[1:]]
    variants += [Variant(precision, *first, "passes") for precision in config.precisions if precision != "high"]
    variants += [Variant(config.precisions[0], *first, "passes, lax")]
    variants += [Variant(config.precisions[0], *block) for block in config.blocks[1:]]
    net = _network(config)
    operations = 2 * products(lambda net, x: net(x), net, np.zeros((1, config.side, config.side, 3), np.float32))
    numbers.add("conductance", {"gflop_of_a_node": operations / 1e9, "layers": len(net.layers(_images(config, 1)))})
    ceilings = {row["product"]: row["tflop_s"] for row in numbers.found.get("limits", []) if "product" in row}
    num_nodes = len(_rule(config).nodes)
    values = {}
    for variant, compiled, compiling in _each_compiled(variants, config):
        if isinstance(compiled, Exception):
            numbers.add("conductance", variant.row | {"failed": str(compiled)[:200]})
            continue
        try:
            arguments = jax.device_put(_arguments(variant, config))
            seconds, result = timed(lambda compiled=compiled, arguments=arguments: compiled(*arguments), config.repeats)
        except jax.errors.JaxRuntimeError as error:
            numbers.add("conductance", variant.row | {"failed": str(error)[:200]})
            continue
        of_a_node = seconds / variant.images / (num_nodes if variant.work == "conductance" else variant.nodes)
        reached = operations / of_a_node / 1e12
        row = variant.row | {"compiling_s": compiling, "seconds": seconds, "node_ms": 1e3 * of_a_node, "tflop_s": reached}
        if variant.precision in ceilings:
            row["share_of_product"] = reached / ceilings[variant.precision]
        if variant.work == "conductance":
            row["images_s"] = variant.images / seconds
            if (variant.images, variant.nodes) == first:
                values[variant.precision] = {name: np.asarray(value, np.float64) for name, value in result.items()}
        numbers.add("conductance", row | {"temporary_gb": compiled.memory_analysis().temp_size_in_bytes / 1e9})
        if variant == variants[0]:
            for kernels in _profile(lambda compiled=compiled, arguments=arguments: compiled(*arguments)):
                numbers.add("kernels", kernels)
        del compiled, arguments, result
    reference = _in_float64(config)
    for precision, found in values.items():
        changes = [float(np.linalg.norm(found[name] - exact) / np.linalg.norm(exact)) for name, exact in reference.items()]
        worst = list(reference)[int(np.argmax(changes))]
        summary = {"median": float(np.median(changes)), "largest": max(changes), "layer": worst}
        numbers.add("changes from float64", {"precision": precision} | summary)


def program(config: Config, numbers: Numbers) -> None:
    """Images a second of the main program's features, in the block that it chooses; the first call compiles."""
    images = _images(config, config.shard_size)
    for readout, precision in config.programs:
        net = _in_precision(_network(config), PRECISIONS[precision][0])
        block = runtime.block(net, images.shape[1:], len(TARGETS), len(_rule(config).nodes), config.shard_size)
        with jax.default_matmul_precision(PRECISIONS[precision][1]):
            extraction = Extraction(net, net.layers(images), readout, config.num_steps, 0, *block)
            mask = np.ones(len(images), bool)
            start = time.perf_counter()
            extraction(images, mask, 0)
            compiling = time.perf_counter() - start
            seconds, _ = timed(lambda extraction=extraction, mask=mask: extraction(images, mask, 0), 1, warm=False)
        row = {"readout": readout, "precision": precision, "block": block, "used": _block_of(extraction)}
        row |= {"first_s": compiling, "second_s": seconds, "images_s": len(images) / seconds}
        numbers.add("program", row | {"peak_gb": _memory("peak_bytes_in_use") / 1e9})


def memory(config: Config, numbers: Numbers) -> None:
    """What `runtime.block` takes of the memory, and what becomes of a block of four times as many images."""
    net = ports.load("resnet18", "random", width=4, num_classes=10)
    shape, num_steps = (config.side, config.side, 3), 2
    images, nodes = runtime.block(net, shape, len(TARGETS), num_steps + 1, 10**6)
    values = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    for factor in (1, 4):
        many = np.broadcast_to(values, (factor * images, *shape))
        extraction = Extraction(net, ("layer1.1", "avgpool"), "channel", num_steps, 0, len(many), nodes)
        extraction(many, np.ones(len(many), bool), 0)
        row = {"chosen": (images, nodes), "tried": (len(many), nodes), "used": _block_of(extraction)}
        numbers.add("memory", row | {"peak_gb": _memory("peak_bytes_in_use") / 1e9, "limit_gb": _bytes_limit() / 1e9})


def estimators(config: Config, numbers: Numbers) -> None:
    """Seconds of an estimate, the copy to the device included; the first call compiles."""
    rng = np.random.default_rng(0)
    for n in config.samples:
        for d in config.features:
            labels = np.arange(n) % 10
            x = (rng.standard_normal((n, d)) + 0.3 * rng.standard_normal((10, d))[labels]).astype(np.float32)
            y = (x + rng.standard_normal((n, d))).astype(np.float32)
            for name, other, estimator in (
                ("KDE, labels", labels, KDE(0.1)),
                ("KDE, input", np.arange(n), KDE(0.1)),
                ("Probe", labels, Probe()),
                ("KSG", y, KSG()),
            ):
                row = {"estimator": name, "n": n, "d": d}
                shorter = [r for r in numbers.found.get("estimators", []) if r["estimator"] == name and r["d"] == d]
                if shorter and (expected := shorter[-1]["seconds"] * (n / shorter[-1]["n"]) ** 2) > SLOW:
                    numbers.add("estimators", row | {"seconds": expected, "left_out": "expected to take so long"})
                    continue
                work = partial(mutual_information, x, other, estimator)
                start = time.perf_counter()
                jax.block_until_ready(work().value)
                first = time.perf_counter() - start
                seconds, found = timed(lambda work=work: work().value, config.repeats, warm=False)
                numbers.add("estimators", row | {"first_s": first, "seconds": seconds, "nats": float(found)})
        columns = rng.standard_normal((n, 256)).astype(np.float32)
        for name, function in (
            ("channels, label", lambda columns=columns, n=n: channels.label_information(columns, np.arange(n) % 10)),
            ("channels, input", lambda columns=columns: channels.input_information(columns)),
        ):
            seconds, _ = timed(function, config.repeats)
            numbers.add("estimators", {"estimator": name, "n": n, "channels": 256, "seconds": seconds})


PARTS: dict[Part, Callable[[Config, Numbers], None]] = {
    "limits": limits,
    "conductance": conductance,
    "program": program,
    "memory": memory,
    "estimators": estimators,
}


def _network(config: Config, convolutions: Callable[..., Array] = resnet.convolution) -> ipjax.Network:
    with patch.object(resnet, "convolution", convolutions):
        return ports.load(config.network, "random", width=config.width)


def _images(config: Config, number: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((number, config.side, config.side, 3)).astype(np.float32)


def _rule(config: Config) -> ipjax.quadrature.Quadrature:
    return ipjax.quadrature.trapezoid(config.num_steps)


def _conductance(net: ipjax.Network, x: Array, *, rule: ipjax.quadrature.Quadrature, nodes: int) -> dict[str, Array]:
    readout = ipjax.readout.channel_sum
    return ipjax.layer_conductance(net, x, target="contrast", quadrature=rule, readout=readout, nodes_at_once=nodes)


def _passes(net: ipjax.Network, x: Array) -> Array:
    """The gradient of the contrast with respect to the input."""

    def contrast(x: Array) -> Array:
        logits = net(x)
        return jnp.sum(logits @ ipjax.contrast_weights(logits.shape[1]).astype(logits.dtype))

    return jax.grad(contrast)(x)


def _lax_convolution(x: Array, kernel: Array, strides: Any, padding: Any, **settings: Any) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, **settings)


def _arguments(variant: Variant, config: Config) -> tuple[ipjax.Network, np.ndarray]:
    net = _network(config, _lax_convolution if variant.work == "passes, lax" else resnet.convolution)
    number = variant.images * (1 if variant.work == "conductance" else variant.nodes)
    dtype = PRECISIONS[variant.precision][0]
    return _in_precision(net, dtype), _images(config, number).astype(jnp.dtype(dtype))


def _each_compiled(variants: list[Variant], config: Config) -> Iterator[tuple[Variant, Any, float]]:
    """Every variant with its compiled code, or the error instead, and the seconds that it took."""

    def lowered(variant: Variant) -> Any:
        function = partial(_conductance, rule=_rule(config), nodes=variant.nodes)
        with jax.default_matmul_precision(PRECISIONS[variant.precision][1]):
            return jax.jit(function if variant.work == "conductance" else _passes).lower(*_arguments(variant, config))

    def compiled(code: Any) -> tuple[Any, float]:
        start = time.perf_counter()
        try:
            return code.compile(), time.perf_counter() - start
        except jax.errors.JaxRuntimeError as error:
            return error, time.perf_counter() - start

    yield variants[0], *compiled(lowered(variants[0]))
    with ThreadPoolExecutor(config.compilers) as pool:  # all of them before any is timed
        results = list(pool.map(compiled, map(lowered, variants[1:])))
    for variant, result in zip(variants[1:], results, strict=True):
        yield variant, *result


def _in_float64(config: Config) -> dict[str, np.ndarray]:
    """The same conductances in float64, a few nodes at once."""
    variant = Variant("highest", config.blocks[0][0], 3)
    with jax.enable_x64(True):
        net, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _arguments(variant, config))
        values = jax.jit(partial(_conductance, rule=_rule(config), nodes=variant.nodes))(net, x)
        return {name: np.asarray(value) for name, value in values.items()}


def _profile(work: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """Where the device's time goes, by kind and by kernel; nothing on devices that do not tell."""
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(work())
        traces = [jax.profiler.ProfileData.from_file(str(path)) for path in Path(folder).rglob("*.xplane.pb")]
    lines = [line for trace in traces for plane in trace.planes if plane.name.startswith("/device:") for line in plane.lines]
    kernels: dict[str, list[float]] = {}
    for line in lines:
        if line.name.startswith(("Stream", "XLA Ops")):  # of a GPU, of a TPU
            for event in line.events:
                kernels.setdefault(event.name, []).append(event.duration_ns)
    total = sum(map(sum, kernels.values()))
    kinds: dict[str, float] = {}
    for name, times in kernels.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0) + sum(times)
    for kind, spent in sorted(kinds.items(), key=lambda item: -item[1]):
        yield {"kind": kind, "share": spent / total, "ms": spent / 1e6}
    for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))[:LONGEST]:
        share = sum(times) / total
        yield {"kernel": name[:90], "kind": kind_of(name), "share": share, "ms": sum(times) / 1e6, "calls": len(times)}


def kind_of(kernel: str) -> str:
    """What a kernel does, told from its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "elementwise")


def _block_of(extraction: Extraction) -> tuple[int, int]:
    return extraction.images_at_once, extraction.nodes_at_once


def _memory(name: str) -> int:
    """Bytes by the device's own statistics, 0 where it keeps none."""
    return (jax.local_devices()[0].memory_stats() or {}).get(name, 0)


def _bytes_limit() -> int:
    return _memory("bytes_limit")


if __name__ == "__main__":
    main(tyro.cli(Config))
