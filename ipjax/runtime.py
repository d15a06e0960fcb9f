"""Where a run computes: devices and hosts as one mesh, and compiled code that outlives the process.

A batch is spread over the devices of a host on a mesh with the one axis `"data"`, parameters are copied to all of them. Hosts
work on shards of their own and meet where features are gathered (`gather`) and where pairwise estimators spread the rows of
their matrices over all devices (`over_all_devices`). JAX's multi-controller runtime does the rest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ipjax.taps import Network

AXIS = "data"
_CPU_BLOCK = 12 * 224 * 224  # images x pixels x nodes, on all devices that share the CPU: larger blocks are not faster
_UNKNOWN_MEMORY = 8 * 2**30  # bytes, of a device that does not tell
_MEMORY_SHARE = 0.6  # of an accelerator's memory, for a block


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process to the others of a run; called on every host, before anything else of JAX.

    On Cloud TPU, Slurm, Open MPI and Kubernetes JAX finds the arguments itself.

    **Raises:** `ValueError` where it cannot.
    """
    if (num_processes is None) != (process_id is None):
        raise ValueError(f"num_processes, process_id: expected both or none, got {num_processes} and {process_id}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator: expected address:port of the first host, got {coordinator!r}")
    jax.config.update("jax_enable_preemption_service", False)  # so that SIGTERM ends the process
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
        jax.devices()  # which waits for the others, and not long: before work that takes hosts unequally long
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"could not start the distributed run: {error}; outside Cloud TPU, Slurm, Open MPI and Kubernetes give the address "
            "of the first host with a free port, the number of processes and this one's number, from 0"
        ) from error


def is_main() -> bool:
    """Whether this process is the one that writes what all share."""
    return jax.process_index() == 0


def keep_compiled(folder: Path) -> None:
    """Keeps compiled code in a folder, from which later processes take it."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def mesh() -> Mesh:
    """All devices of all hosts."""
    return _mesh(jax.devices())


def local_mesh() -> Mesh:
    """The devices of this host."""
    return _mesh(jax.local_devices())


def over_all_devices() -> AbstractContextManager[Any]:
    """Inside it pairwise estimators spread the rows of their matrices over the devices of all hosts, if there are several."""
    return jax.set_mesh(mesh()) if jax.device_count() > 1 else nullcontext()


def _mesh(devices: list[Any]) -> Mesh:
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays copied to every device of a mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def gather(rows: np.ndarray) -> np.ndarray:
    """The rows `[m, ...]` of every process, in the order of the processes; each must call it, and gets all."""
    if jax.process_count() == 1:
        return rows
    counts = np.asarray(multihost_utils.process_allgather(np.asarray(len(rows), np.int32)))
    padded = np.zeros((counts.max(), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    sent = np.frombuffer(padded.tobytes(), np.uint8)  # JAX would make 32 bits of 64
    every = np.asarray(multihost_utils.process_allgather(sent)).view(rows.dtype).reshape(len(counts), *padded.shape)
    return np.concatenate([rows[:count] for rows, count in zip(every, counts, strict=True)])


def gather_texts(texts: Iterable[str]) -> list[str]:
    """The texts of every process, line breaks in them as blanks; each must call it, and gets all."""
    encoded = "".join(" ".join(text.splitlines()) + "\n" for text in texts).encode()
    return gather(np.frombuffer(encoded, np.uint8)).tobytes().decode().splitlines()


def agree(settings: str) -> None:
    """Raises `ValueError` on every process where they were started with different settings."""
    if len(found := set(gather_texts([settings]))) > 1:
        raise ValueError(f"settings: expected the same on every host, got {' and '.join(sorted(found))}")


@contextmanager
def together() -> Iterator[None]:
    """An error of one process inside is raised on all at the end, so that none waits for another that is gone."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
        if jax.process_count() > 1:  # the others may take long to get here
            logging.getLogger(__name__).error("host %d stopped: %s", jax.process_index(), error)
    if (failed := gather_texts([] if error is None else [str(error)])) and error is None:
        raise ValueError(f"another host stopped: {failed[0]}")
    if error is not None:
        raise error


def block(net: Network, image_shape: tuple[int, ...], num_targets: int, num_nodes: int, most_images: int) -> tuple[int, int]:
    """Images, up to `most_images`, and path nodes that a device should evaluate together, for conductances to some targets.

    On an accelerator as many as its memory holds: an image at a node takes the activations of every layer and a gradient a
    target of each (an upper estimate, since compiled code keeps fewer). Nodes come first: of neighbouring blocks of the rescale
    rule one is computed twice. Images are shared out evenly over the blocks.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":  # devices of a CPU share its cores and caches
        size = max(1, _CPU_BLOCK // (image_shape[0] * image_shape[1]) // len(devices))
    else:
        dtype = jnp.result_type(*jax.tree.leaves(net.params))
        layers = net.layer_shapes(jnp.zeros((1, *image_shape), dtype)).values()
        image = sum(layer.size * layer.dtype.itemsize for layer in layers) * (1 + num_targets)
        limit = (devices[0].memory_stats() or {}).get("bytes_limit", _UNKNOWN_MEMORY)
        size = max(1, int(_MEMORY_SHARE * limit / image))
    nodes = min(num_nodes, size)
    images = min(most_images, size // nodes)
    return math.ceil(most_images / math.ceil(most_images / images)), nodes
