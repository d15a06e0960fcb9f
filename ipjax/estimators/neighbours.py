"""Nearest neighbours in the maximum norm: exact distances, their k smallest, and counts within a radius, by tiles.

What the nearest-neighbour estimators (`ipjax.estimators.ksg`, `ipjax.estimators.ross`) share. A block of rows meets all
points in tiles of columns, and everything is elementwise on tiles: no row is ever sorted. Maximum and minimum are written as
comparisons: `jnp.maximum` has to hand NaN on, which XLA's CPU compiler pays for with twice the time at 64 features.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from ipjax.estimators.base import some_samples, varying

_COLUMNS = 128  # points in a tile: with the features below, a tile stays in a core's first cache
_FEATURES = 16  # features in one loop body
_CENTRES, _TIED = 200, 2000  # samples whose neighbours, or whose repeated values, are looked at for warnings
_FAR = 0.25  # of the median distance: nearest neighbours farther out are warned about
_REPEATED = 0.1  # share of a feature's values that may occur more than once without a warning


def in_tiles(x: Float[Array, "n d"]) -> Float[Array, "t d c"]:
    """The points as columns, in tiles, filled up with points at infinity (and, where that evens a loop, features 0)."""
    n, d = x.shape
    tiles = math.ceil(n / _COLUMNS)
    x = jnp.pad(x, ((0, tiles * _COLUMNS - n), (0, 0)), constant_values=jnp.inf)
    return jnp.pad(x, ((0, 0), (0, _even(d) - d))).reshape(tiles, _COLUMNS, -1).swapaxes(1, 2)


def columns(tiles: int) -> Int[Array, "t 1 c"]:
    """Which point each column of the tiles is."""
    return jnp.arange(tiles * _COLUMNS).reshape(tiles, 1, _COLUMNS)


def max_norm(rows: Float[Array, "r d"], tiles: Float[Array, "t d c"], factor: float | Array = 1.0) -> Float[Array, "t r c"]:
    """factor x max_f |rows_f - column_f| of every row and column; infinite for the columns that only fill a tile up."""
    chunks = tiles.shape[1] // min(tiles.shape[1], _FEATURES)
    rows = jnp.pad(rows, ((0, 0), (0, tiles.shape[1] - rows.shape[1]))).T.reshape(chunks, -1, len(rows))

    def chunk(distance: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        for a, b in zip(*part, strict=True):
            distance = larger(distance, jnp.abs(a[:, None] - b[None, :]))
        return distance, None

    def tile(columns: Float[Array, "d c"]) -> Float[Array, "r c"]:
        none = jnp.zeros((rows.shape[2], _COLUMNS), rows.dtype)
        parts = rows, columns.reshape(chunks, -1, _COLUMNS)
        return factor * (chunk(none, (parts[0][0], parts[1][0])) if chunks == 1 else jax.lax.scan(chunk, none, parts))[0]

    return jax.lax.map(tile, tiles)


def smallest(distances: Float[Array, "t r c"], k: int) -> Float[Array, "r k"]:
    """The k smallest of every row, in ascending order: running minima over the tiles, then a selection among k a column."""

    def keep(best: tuple[Array, ...], distance: Array) -> tuple[tuple[Array, ...], None]:
        kept = []
        for held in best:
            kept.append(jnp.where(distance < held, distance, held))
            distance = larger(distance, held)
        return tuple(kept), None

    none = jnp.full_like(distances[0], jnp.inf)
    best, _ = jax.lax.scan(keep, (none,) * k, distances)
    return -jax.lax.top_k(-jnp.concatenate(best, axis=1), k)[0]


def largest(distances: Float[Array, "t r c"], among: Bool[Array, "t r c"]) -> Float[Array, " r"]:
    """The largest of every row among the marked, 0 where none is."""

    def keep(best: Array, tile: tuple[Array, Array]) -> tuple[Array, None]:
        distance, marked = tile
        return larger(best, jnp.where(marked, distance, 0)), None

    best, _ = jax.lax.scan(keep, jnp.zeros_like(distances[0]), (distances, among))
    return jnp.max(best, axis=1)


def count(distances: Float[Array, "t r c"], radius: Float[Array, " r"]) -> Int[Array, " r"]:
    """How many of every row are nearer than its radius; where that is 0, how many coincide with the row's point."""
    radius = jnp.maximum(radius, jnp.finfo(radius.dtype).tiny)[:, None]

    def add(number: Array, distance: Array) -> tuple[Array, None]:
        return number + (distance < radius), None

    number, _ = jax.lax.scan(add, jnp.zeros(distances.shape[1:], jnp.int32), distances)
    return jnp.sum(number, axis=1, dtype=jnp.int32)


def larger(a: Array, b: Array) -> Array:
    """The maximum of numbers that are not NaN."""
    return jnp.where(a > b, a, b)


def _even(d: int) -> int:
    """d, filled up to whole chunks of features where it is more than one: 8 take XLA's CPU compiler twice the time of 16."""
    return d if d == 1 else math.ceil(d / _FEATURES) * _FEATURES


def far_neighbours(x: np.ndarray, k: int, classes: np.ndarray | None = None) -> str | None:
    """A warning if the k-th neighbours (of the same class) lie too far out for a density that is constant as far as them.

    Measured on up to 200 samples: their median distance, as a share of the median distance between samples. The effective
    dimension is a two-point estimate after the correlation dimension of Grassberger and Procaccia 1983: about a share k / n
    of the (class's) sample lies within the one distance, half of it within the other.
    """
    nearest, typical, peers = [], [], []
    for i in some_samples(len(x), _CENTRES):
        distances = np.max(np.abs(x - x[i]), axis=1)
        typical.append(np.median(distances))
        among = distances if classes is None else distances[classes == classes[i]]
        if len(among) > k:
            nearest.append(np.partition(among, k)[k])
            peers.append(len(among))
    if not nearest or np.median(nearest) <= _FAR * np.median(typical):
        return None
    ratio = float(np.median(nearest) / np.median(typical)) if np.median(typical) > 0 else 1.0
    dimension = math.log(max(np.median(peers) / (2 * k), 1)) / -math.log(min(ratio, 0.999))
    return (
        f"effective dimension {dimension:.0f} is high for {np.median(peers):.0f} samples: {k} neighbours reach to "
        f"{ratio:.2f} of the distance between samples (trust up to {_FAR}), and the value may be too low"
    )


def ties(x: np.ndarray) -> str | None:
    """A warning if more than a tenth of a feature's values, on average over the features, occur more than once."""
    some = x[some_samples(len(x), _TIED)]
    ordered = np.sort(some[:, varying(some)], axis=0)
    same = ordered[1:] == ordered[:-1]
    nowhere = np.zeros((1, ordered.shape[1]), bool)
    repeated = np.mean(np.concatenate([same, nowhere]) | np.concatenate([nowhere, same]))
    return f"ties: {repeated:.0%} of the values occur more than once" if repeated > _REPEATED else None
