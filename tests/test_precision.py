"""The emulated precision rounds what products multiply, forward and backward, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.precision import products_with
from ipjax.models.convolution import convolution


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kept", [8, 24])
def test_operands_are_rounded(size, kept):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 6, 6, 4)), jax.random.normal(keys[1], (size, size, 4, 5))
    weight = jax.random.normal(keys[2], (2, 6, 6, 5))
    padding = ((size // 2, size // 2),) * 2

    def product(x, kernel):
        return convolution(x, kernel, (1, 1), padding)

    def value_and_gradient(x, kernel, weight):
        value, pull_back = jax.vjp(lambda x: product(x, kernel), x)
        return value, pull_back(weight)[0]

    def rounded(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32) if kept == 8 else x

    expected = value_and_gradient(rounded(x), rounded(kernel), rounded(weight))
    with products_with(kept):
        found = value_and_gradient(x, kernel, weight)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    if kept == 8:
        assert np.abs(found[0] - product(x, kernel)).max() > 1e-3
