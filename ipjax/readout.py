"""What reduces a layer's units to features before mutual information.

A readout maps `[batch, *layer shape]` to `[batch, features]` and is linear, so that it commutes with the path integral and
full-size conductances need never be stored. Units that share the last axis index are a channel (NHWC).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

Readout = Callable[[Float[Array, "batch *shape"]], Float[Array, "batch features"]]


def channel_sum(units: Float[Array, "batch *shape"]) -> Float[Array, "batch channels"]:
    """Sum over space. For conductance it is exact: a channel's conductance is the sum of its units'."""
    return _sum_rows(units.reshape(len(units), -1, units.shape[-1]))


def channel_mean(units: Float[Array, "batch *shape"]) -> Float[Array, "batch channels"]:
    """Mean over space (global average pooling), for activations."""
    return channel_sum(units) / math.prod(units.shape[1:-1])


def flatten(units: Float[Array, "batch *shape"]) -> Float[Array, "batch units"]:
    """Every unit is a feature."""
    return units.reshape(len(units), -1)


@dataclass(frozen=True)
class CountSketch:
    """Every unit gets a random sign and one of `k` buckets; a feature is the signed sum of its bucket.

    O(units) work; inner products, and so squared distances, are kept without bias with variance O(1/k)
    (Charikar, Chen and Farach-Colton 2002; here all buckets hold equally many units). Layers of at most `k` units are kept
    whole. Where things are in space survives, unlike in `channel_sum`.
    """

    k: int
    seed: int = 0

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"CountSketch: expected k of at least 1, got {self.k}")

    def __call__(self, units: Float[Array, "batch *shape"]) -> Float[Array, "batch features"]:
        flat = flatten(units)
        size = flat.shape[1]
        if size <= self.k:
            return flat
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(size).astype(np.int32)
        signs = rng.choice(np.asarray([-1, 1], flat.dtype), size)
        rows = -(-size // self.k)
        shuffled = jnp.pad((flat * signs)[:, order], ((0, 0), (0, rows * self.k - size)))
        return _sum_rows(shuffled.reshape(len(units), rows, self.k))


def _sum_rows(values: Float[Array, "batch rows columns"]) -> Float[Array, "batch columns"]:
    # A product with ones, since XLA's CPU backend is slow, and in jaxlib 0.10.2 unsafe, at sums fused with what they sum.
    return jnp.einsum("r,brc->bc", jnp.ones(values.shape[1], values.dtype), values, precision="highest")
