"""Readouts against their definitions; the sketch also against what it promises on average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipjax import readout
from ipjax.readout import CountSketch

SHAPES = [(3, 5, 4, 7), (3, 9, 7), (3, 7)]


def units(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_channels_are_the_last_axis(shape):
    values = units(shape)
    space = tuple(range(1, len(shape) - 1))
    chex.assert_trees_all_close(readout.channel_sum(values), values.sum(axis=space), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(readout.channel_mean(values), values.mean(axis=space), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_flatten_keeps_every_unit_in_order(shape):
    chex.assert_trees_all_equal(readout.flatten(jnp.asarray(units(shape))), units(shape).reshape(3, -1))


@pytest.mark.parametrize("read", [readout.channel_sum, readout.channel_mean, readout.flatten, CountSketch(16)])
def test_linear_and_the_same_inside_jit(read):
    a, b = (jnp.asarray(units((3, 5, 4, 7), seed)) for seed in (0, 1))
    chex.assert_trees_all_close(read(2 * a - 3 * b), 2 * read(a) - 3 * read(b), rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(jax.jit(read)(a), read(a), rtol=1e-5, atol=1e-5)


def test_sketch_is_its_seeds():
    values = jnp.asarray(units((3, 5, 4, 7)))
    chex.assert_trees_all_equal(CountSketch(16, seed=3)(values), CountSketch(16, seed=3)(values))
    assert CountSketch(16, seed=3) == CountSketch(16, seed=3) and hash(CountSketch(16)) == hash(CountSketch(16))
    assert not np.allclose(CountSketch(16, seed=3)(values), CountSketch(16, seed=4)(values))


@pytest.mark.parametrize("k", [140, 141, 4096])
def test_layers_of_at_most_k_units_are_kept_whole(k):
    values = jnp.asarray(units((3, 5, 4, 7)))
    chex.assert_trees_all_equal(CountSketch(k)(values), values.reshape(3, 140))


@pytest.mark.parametrize("k", [1, 16, 139])
def test_every_unit_is_counted_once_with_a_sign(k):
    matrix = np.asarray(CountSketch(k)(jnp.eye(140).reshape(140, 5, 4, 7)))
    assert matrix.shape == (140, k)
    assert (np.abs(matrix).sum(axis=1) == 1).all() and set(np.unique(matrix)) <= {-1, 0, 1}
    assert 40 < (matrix.sum(axis=1) > 0).sum() < 100  # half of the signs, within five standard errors
    counts = np.abs(matrix).sum(axis=0)
    assert counts.max() <= -(-140 // k)


def test_inner_products_are_unbiased():
    pair = units((2, 6, 6, 3))
    a, b = pair.reshape(2, -1)
    for left, right in ((0, 0), (0, 1)):
        products = []
        for seed in range(400):
            sketch = np.asarray(CountSketch(8, seed)(pair), np.float64)
            products.append(sketch[left] @ sketch[right])
        standard_error = np.std(products, ddof=1) / np.sqrt(len(products))
        expected = (a, b)[left] @ (a, b)[right]
        assert abs(np.mean(products) - expected) < 4 * standard_error
        # variance of about (|a|^2 |b|^2 + (a.b)^2) / k
        spread = np.sqrt(((pair[left] ** 2).sum() * (pair[right] ** 2).sum() + expected**2) / 8)
        assert 0.7 < np.std(products) / spread < 1.3


@pytest.mark.parametrize("k", [0, -5])
def test_sketch_needs_a_bucket(k):
    with pytest.raises(ValueError, match=f"CountSketch: expected k of at least 1, got {k}"):
        CountSketch(k)
