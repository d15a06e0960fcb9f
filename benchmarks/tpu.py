"""Whether a run compiles for a TPU and fits its memory, by the TPU's own compiler, on a machine without one.

    pip install libtpu    # of the version that `pip install 'jax[tpu]'` brings with this JAX
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.tpu

The features of the main program, conductances to three targets of all default layers, are compiled for every chip of a host
with the block of images and nodes that `ipjax.runtime.block` chooses for the chip's memory. Nothing is run: it tells whether
the run compiles and what memory it takes, and nothing of time. The compiler works on this machine's processor, for minutes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ports
from benchmarks.cost import as_on_an_accelerator
from benchmarks.environment import print_values, write
from experiments.features import TARGETS, Extraction
from experiments.runner import _in_precision
from ipjax import runtime
from ipjax.taps import Network

GIB = 2**30
CHIPS = {"v5e": ("v5e:2x2", 15.75 * GIB), "v4": ("v4:2x2x1", 31.75 * GIB)}
"""The smallest host of a kind by the compiler's name, and what JAX may use of a chip's memory."""


@dataclass(frozen=True)
class Config:
    """Settings of the run; what is not here is as in the experiments' defaults."""

    chip: Literal["v5e", "v4"] = "v5e"
    network: str = "resnet50"
    width: int = 64
    """channels of the stem"""
    side: int = 224
    """pixels"""
    num_steps: int = 16
    shard_size: int = 64
    readout: Literal["sketch", "channel"] = "sketch"
    dtype: Literal["float32", "bfloat16"] = "float32"
    precision: Literal["highest", "high", "default"] = "highest"
    factor: float = 1.0
    """images at once are this many times those of the rule"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints what the compiler says and returns it."""
    topology, memory = CHIPS[config.chip]
    devices: Any = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    net = _in_precision(ports.load(config.network, "random", width=config.width), config.dtype)
    shape = (config.side, config.side, 3)
    images, nodes = _block(net, shape, config, len(devices), int(memory))
    about = {"devices": len(devices), "kind": devices[0].device_kind, "memory_gib": memory / GIB, "jax": jax.__version__}
    numbers: dict[str, Any] = about | {"images": images, "nodes": nodes}
    lowered = _lowered(net, shape, images, nodes, config, devices)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        numbers["failed"] = str(error)[:400]
    else:
        found: Any = compiled.memory_analysis()
        parts = ("temp", "argument", "output", "generated_code")
        taken = {part: getattr(found, f"{part}_size_in_bytes") / GIB for part in parts}
        numbers |= {f"{part}_gib": size for part, size in taken.items()}
        numbers["share_of_memory"] = sum(taken.values()) * GIB / memory
    numbers["compiling_s"] = time.perf_counter() - start
    print_values(numbers)
    write(config.out, numbers)
    return numbers


def _block(net: Network, shape: tuple[int, ...], config: Config, num_devices: int, memory: int) -> tuple[int, int]:
    """Images and nodes on a device by the rule for devices of so much memory."""
    device = SimpleNamespace(platform="tpu", memory_stats=lambda: {"bytes_limit": memory})
    with patch.object(jax, "local_devices", lambda: [device] * num_devices):
        most = -(-config.shard_size // num_devices)
        images, nodes = runtime.block(net, shape, len(TARGETS), config.num_steps + 1, most)
    return max(1, int(config.factor * images)), nodes


def _lowered(net: Network, shape: tuple[int, ...], images: int, nodes: int, config: Config, devices: list[Any]) -> Any:
    """The conductances of a block, for all devices."""
    mesh = runtime._mesh(devices)
    example = np.zeros((1, *shape), np.float32)
    num_classes = net.logits_shape(example).shape[1]
    on_all = partial(_like, mesh=mesh)
    arguments = (
        jax.tree.map(lambda leaf: on_all(leaf.shape, leaf.dtype, P()), net),
        on_all((images * len(devices), *shape), jnp.float32, P("data")),
        on_all((len(TARGETS), images * len(devices), num_classes), jnp.float32, P(None, "data")),
    )
    with (
        jax.default_matmul_precision(config.precision),
        patch.object(runtime, "local_mesh", lambda: mesh),
        patch.object(runtime, "replicate", lambda tree, mesh: tree),
        as_on_an_accelerator(),
    ):
        extraction = Extraction(net, net.layers(example), config.readout, config.num_steps, 0, images, nodes)
        return jax.jit(lambda net, x, targets: extraction._conduct(net, x, targets)).lower(*arguments)


def _like(shape: tuple[int, ...], dtype: Any, spec: P, *, mesh: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


if __name__ == "__main__":
    main(tyro.cli(Config))
