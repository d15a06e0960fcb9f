"""What reduces a layer's units to features before mutual information.

A readout maps `[batch, *layer shape]` to `[batch, features]` and is linear, so that it commutes with the path integral and
full-size conductances need never be stored. Units that share the last axis index are a channel (NHWC).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Readout = Callable[[Float[Array, "batch *shape"]], Float[Array, "batch features"]]


def channel_sum(units: Float[Array, "batch *shape"]) -> Float[Array, "batch channels"]:
    """Sum over space. For conductance it is exact: a channel's conductance is the sum of its units'."""
    places = units.reshape(len(units), -1, units.shape[-1])
    # A product with ones, since XLA's CPU backend is slow, and in jaxlib 0.10.2 unsafe, at sums fused with what they sum.
    return jnp.einsum("p,bpc->bc", jnp.ones(places.shape[1], units.dtype), places, precision="highest")


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
    (Charikar, Chen and Farach-Colton 2002). Layers of at most `k` units are kept whole. Where things are in space
    survives, unlike in `channel_sum`.
    """

    k: int
    seed: int = 0

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"CountSketch: expected k of at least 1, got {self.k}")

    def __call__(self, units: Float[Array, "batch *shape"]) -> Float[Array, "batch features"]:
        size = math.prod(units.shape[1:])
        if size <= self.k:
            return flatten(units)
        bucket_key, sign_key = jax.random.split(jax.random.key(self.seed))
        bucket = jax.random.randint(bucket_key, (size,), 0, self.k)
        signs = jax.random.rademacher(sign_key, (size,), units.dtype)
        return jnp.zeros((len(units), self.k), units.dtype).at[:, bucket].add(signs * flatten(units))
