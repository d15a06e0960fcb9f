"""The cost model counts what the experiments compute and store."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ipjax
from benchmarks import cost
from experiments.features import TARGETS, Extraction

SHAPE, CLASSES = (16, 16, 3), 10


@pytest.fixture(scope="module")
def net():
    """A convolution, a wide dense layer and the logits."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"kernel": (3, 3, 3, 8), "hidden": (16 * 16 * 8, 600), "out": (600, CLASSES)}
    params = {name: jax.random.normal(key, shape) / 10 for key, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def apply(params, x, tap):
        x = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = tap("conv", jax.nn.relu(x)).reshape(len(x), -1)
        return tap("hidden", jax.nn.relu(x @ params["hidden"])) @ params["out"]

    return ipjax.from_function(apply, params)


@pytest.mark.parametrize("readout", ["sketch", "channel"])
def test_stored_bytes_are_those_of_a_shard(net, readout):
    names = ("input", "conv", "hidden")
    images = np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32)
    arrays = Extraction(net, names, readout, 2, 0, 4, 3)(images, np.ones(4, bool), 0)
    assert sum(array.nbytes for array in arrays.values()) == 4 * cost.stored_bytes(net, SHAPE, names, readout)


def test_operations_are_those_of_the_products(net):
    image = cost.of_an_image(net, SHAPE, ("input", "conv", "hidden"), "channel")
    convolution, dense = 2 * 16 * 16 * 8 * 27, 2 * (16 * 16 * 8 * 600 + 600 * CLASSES)
    x = jnp.zeros((1, *SHAPE))
    assert cost.products(lambda net, x: net(x), net, x) == convolution + dense
    assert image.forward == pytest.approx(convolution + dense, rel=0.1)  # XLA's count leaves the borders out
    assert image.node == pytest.approx((1 + len(TARGETS)) * (convolution + dense), rel=0.1)
    assert image.rest == pytest.approx(3 * image.forward, rel=0.1)
