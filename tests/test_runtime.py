"""Where a run computes: blocks by memory, gathered rows, the start of a distributed run, and going on when memory runs out."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import ports
from experiments import features
from experiments.features import TARGETS, Extraction
from ipjax import runtime

NODES = 33
SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def net():
    return ports.load("resnet18", "random", width=4, num_classes=10, seed=0)


def devices(monkeypatch, number, platform="cpu", memory=None):
    each = SimpleNamespace(platform=platform, memory_stats=lambda: memory and {"bytes_limit": memory})
    monkeypatch.setattr(jax, "local_devices", lambda: [each] * number)


@pytest.mark.parametrize(
    ("number", "side", "expected"),
    [(1, 224, (1, 12)), (1, 32, (16, NODES)), (1, 8, (64, NODES)), (8, 224, (1, 1)), (8, 32, (2, NODES)), (64, 224, (1, 1))],
)
def test_devices_of_a_cpu_share_one_block(net, monkeypatch, number, side, expected):
    devices(monkeypatch, number)
    images, nodes = runtime.block(net, (side, side, 3), 3, NODES, 64)
    assert (images, nodes) == expected
    assert number * images * nodes * side**2 <= max(12 * 224**2, number * side**2)


def bytes_of_an_image(net, num_targets):
    """Activations of every layer and a gradient a target of each, from the values themselves."""
    _, values = net.activations(np.zeros((1, *SHAPE), np.float32), net.layers(np.zeros((1, *SHAPE), np.float32), "all"))
    return sum(value.nbytes for value in values.values()) * (1 + num_targets)


@pytest.mark.parametrize("num_targets", [1, 3])
@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        (1e6, (64, NODES)),
        (64 * NODES + 0.5, (64, NODES)),
        (3.5 * NODES, (3, NODES)),
        (10.5, (1, 10)),
        (1.5, (1, 1)),
        (0.01, (1, 1)),
    ],
)
def test_an_accelerators_block_fills_its_memory(net, monkeypatch, holds, expected, num_targets):
    """Of which 0.6 hold so many images at a node."""
    devices(monkeypatch, 4, "gpu", int(holds * bytes_of_an_image(net, num_targets) / 0.6))
    assert runtime.block(net, SHAPE, num_targets, NODES, 64) == expected


def test_blocks_are_no_larger_than_what_there_is_and_of_even_size(net, monkeypatch):
    devices(monkeypatch, 1)
    assert [runtime.block(net, SHAPE, 3, NODES, most)[0] for most in (1, 17, 18, 40, 65)] == [1, 17, 9, 14, 17]


def test_a_coordinator_without_a_port():
    with pytest.raises(ValueError, match="coordinator: expected address:port of the first host, got 'nonsense'"):
        runtime.initialize("nonsense", 2, 0)


def test_one_process_gathers_its_own_rows():
    rows = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(runtime.gather(rows), rows)
    assert runtime.gather(rows[:0]).shape == (0, 3)
    assert runtime.is_main()


@pytest.mark.parametrize("numbers", [{"num_processes": 2}, {"process_id": 0}])
def test_number_of_processes_without_this_ones(numbers):
    with pytest.raises(ValueError, match="num_processes, process_id: expected both or none, got"):
        runtime.initialize("127.0.0.1:1", **numbers)


@pytest.mark.parametrize(
    ("before", "arguments", "message"),
    [
        ("", "", "could not start the distributed run: .*; outside Cloud TPU, Slurm, .* give the address"),
        ("", "'127.0.0.1:1'", "could not start the distributed run: .* give .* the number of processes"),
        ("import jax; jax.devices(); ", "'127.0.0.1:1', 1, 0", "could not start the distributed run: .* before any JAX"),
    ],
    ids=["no cluster", "only an address", "after JAX began"],
)
def test_a_distributed_run_that_cannot_start(before, arguments, message):
    code = (
        f"{before}from ipjax.runtime import initialize\ntry: initialize({arguments})\nexcept ValueError as error: print(error)"
    )
    clusters = ("SLURM", "OMPI", "PMI", "KUBERNETES", "TPU", "CLOUD", "JAX_", "MEGASCALE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(clusters)}
    command = [sys.executable, "-c", code]
    environment |= {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(message, " ".join(done.stdout.split())), done.stdout


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.standard_normal((11, *SHAPE)).astype(np.float32), np.arange(11) % 5 != 3  # two of them marked as unreadable


@pytest.fixture(scope="module")
def extract(net):
    def make():
        return Extraction(net, ("layer1.1", "avgpool"), "sketch", 2, 0, images_at_once=8, nodes_at_once=3)

    return make


@pytest.fixture(scope="module")
def whole(extract, images):
    return extract()(*images, start=5)


def limited(function, most, fits=0):
    """The function on a device that holds so many images at most, but for the first calls, which fit."""
    calls = iter(range(fits))

    def on_the_device(net, images, *targets):
        if len(images) > most and next(calls, None) is None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes.")
        return function(net, images, *targets)

    return on_the_device


@pytest.mark.parametrize(
    ("forward", "conduct", "fits", "warned"),
    [(100, 100, 0, []), (8, 4, 0, [4]), (8, 2, 1, [4, 2]), (4, 1, 0, [4, 2, 1]), (2, 2, 0, [4, 2])],
    ids=["enough", "conductances", "from the second block on", "both", "the pass forward"],
)
def test_out_of_memory_goes_on_with_fewer_images(extract, images, whole, monkeypatch, forward, conduct, fits, warned):
    warnings, advanced, extraction = [], [], extract()
    monkeypatch.setattr(features, "warn", warnings.append)
    extraction._forward = limited(extraction._forward, forward)
    extraction._conduct = limited(extraction._conduct, conduct, fits)
    found = extraction(*images, start=5, advance=advanced.append)
    assert warnings == [f"out of memory; going on with {number} images x 3 nodes on a device" for number in warned]
    assert extraction.images_at_once == (warned or [8])[-1]
    assert sum(advanced) == len(images[0])
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        assert found[name].dtype == values.dtype
        if not name.startswith("gap/"):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * np.abs(values).max(), err_msg=name)
    assert found["position"].tolist() == [5, 6, 7, 9, 10, 11, 12, 14, 15]
    assert found[f"features/{TARGETS[0]}/avgpool"].shape[0] == 9


def test_not_even_one_image_fits(extract, images, monkeypatch):
    warnings, extraction = [], extract()
    monkeypatch.setattr(features, "warn", warnings.append)
    extraction._conduct = limited(extraction._conduct, 0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        extraction(*images, start=5)
    assert len(warnings) == 4  # images 8, 4, 2, 1, then nodes 3, 1


def test_other_errors_of_the_device_are_passed_on(extract, images, monkeypatch):
    warnings, extraction = [], extract()
    monkeypatch.setattr(features, "warn", warnings.append)

    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    extraction._conduct = broken
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        extraction(*images, start=5)
    assert warnings == []
