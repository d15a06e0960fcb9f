"""Kernel density bracket: pairwise bounds on the information of a layer seen through Gaussian noise.

Kolchinsky and Tracey 2017, "Estimating Mixture Entropy with Pairwise Distances" (arXiv:1706.02419), as used for information
planes by Saxe et al. 2018 and Kolchinsky, Tracey and Wolpert 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, check_positive, pytree_settings, some_samples

_ROWS = 512  # rows of the pairwise matrix held at once
_FEW_CLASSES = 32  # up to here sums over classes are faster as a product with the one-hot labels than by masks
_HELD = 4096  # samples up to which the distances of all pairs are held, 64 MiB
MEDIAN_SAMPLES = 500  # the median distance comes from at most this many samples


@pytree_settings
class KDE:
    """I(C + sZ; Y) of features C seen through Gaussian noise Z, s² = `noise` x median squared pairwise distance of C.

    A deterministic network's I(X; C) is infinite or constant, so the noise is part of the quantity: use one `noise` for all
    layers and look at a sweep of it. With p_i(c) the mean Gaussian kernel of the sample around c,

    - labels: value = KL(all) - Σ p_c KL(class c), an estimate that never exceeds KL(all);
        lower = BD(all) - Σ p_c KL(c) and upper = KL(all) - Σ p_c BD(c) are guaranteed bounds on the information in
        the empirical distribution,
    - every sample its own label: I(X; C + sZ), value = upper = the KL bound, lower = the Bhattacharyya bound,
    - floating y [n, dy], with noise of the same rule: I(A; X) + I(B; X) - I((A, B); X) by the same bounds.

    Ceiling: ln n, or the labels' entropy. The sample is taken as the whole distribution, so independent labels give more than
    0, and much more where the noise is small: compare with the null. Of features with a density the upper bound of every
    sample its own label lies about d/2 above, the lower (ln 2 - ½) d below the information, at any n. Bounds are wide where
    the noise is about as large as the distance between neighbours, and the sample is too small where the value saturates.
    Cost: n² d, in blocks of rows.
    """

    noise: float | Float[Array, ""] = 0.05
    pairwise: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(noise=self.noise)

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        return self.together(x, [y], key)[0]

    def together(self, x: Float[Array, "n dx"] | Distances, ys: Sequence[Labels | Array], key: Array) -> list[Estimate]:
        """The estimate for each of several y, whose kernels of x are computed once."""
        del key
        of_labels = iter(_with_labels(x, [y for y in ys if isinstance(y, Labels)], self.noise))
        return [next(of_labels) if isinstance(y, Labels) else _with_features(x, y, self.noise) for y in ys]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Distances:
    """Squared distances of all pairs of samples, which stand for the samples' features in pairwise estimators."""

    squared: Float[Array, "n n"]

    def __len__(self) -> int:
        return len(self.squared)

    def __getitem__(self, index: Int[Array | np.ndarray, " m"]) -> Distances:
        """Of some samples."""
        return Distances(self.squared[index][:, index])


def held(estimator: Any, x: Float[Array, "n d"]) -> Array | Distances:
    """The distances of the features in their place, to be computed once for all that is asked about them: for estimators that
    are `pairwise`, where one device holds them."""
    pairwise = getattr(estimator, "pairwise", False) and x.ndim == 2
    if not pairwise or len(x) > _HELD or _data_devices() > 1:
        return x
    return Distances(squared_distances(x, jnp.arange(len(x))))


def _with_labels(x: Float[Array, "n d"] | Distances, ys: Sequence[Labels], noise: float | Array) -> list[Estimate]:
    if not ys:
        return []
    scale = noise_variance(x, noise)
    class_sizes = [y.counts()[y.values] for y in ys]

    def rows(index: Array) -> tuple[Array, Array]:
        def bound(kernel: Array) -> Array:
            everyone = -jnp.log(jnp.sum(kernel, axis=1) / len(x))
            within = [-jnp.log(_class_sums(kernel, y, index) / size[index]) for y, size in zip(ys, class_sizes, strict=True)]
            return jnp.stack([everyone, *within])

        kl, bd = _kernels(squared_distances(x, index) / scale)
        return bound(kl), bound(bd)

    (kl_all, *kl_classes), (bd_all, *bd_classes) = (jnp.mean(bound, axis=1) for bound in by_rows(rows, len(x)))
    return [
        Estimate(kl_all - kl, bd_all - kl, kl_all - bd, y.entropy())
        for y, kl, bd in zip(ys, kl_classes, bd_classes, strict=True)
    ]


def _kernels(squared: Array) -> tuple[Array, Array]:
    """exp(-d / 2) and exp(-d / 8) of squared distances d in units of the noise, for the two bounds."""
    bd = jnp.exp(-squared / 8)
    return (bd * bd) ** 2, bd


def _class_sums(kernel: Float[Array, "m n"], y: Labels, rows: Int[Array, " m"]) -> Float[Array, " m"]:
    """The kernel's sum of every row over the samples of the row's class."""
    if y.distinct:
        return jnp.ones(len(rows), kernel.dtype)  # of the sample itself
    if y.num_classes > _FEW_CLASSES:
        return jnp.sum(jnp.where(y.values[rows][:, None] == y.values[None, :], kernel, 0), axis=1)
    members = jax.nn.one_hot(y.values, y.num_classes, dtype=kernel.dtype)
    of_classes = jnp.matmul(kernel, members, precision=jax.lax.Precision.HIGHEST)  # for many labelings y, one matrix product
    return jnp.sum(of_classes * members[rows], axis=1)


def _with_features(x: Float[Array, "n dx"] | Distances, y: Float[Array, "n dy"], noise: float | Array) -> Estimate:
    x_scale, y_scale = noise_variance(x, noise), noise_variance(y, noise)

    def rows(index: Array) -> tuple[Array, Array]:
        of_x = _kernels(squared_distances(x, index) / x_scale)
        of_y = _kernels(squared_distances(y, index) / y_scale)

        def bound(k_x: Array, k_y: Array) -> Array:
            return jnp.stack([-jnp.log(jnp.mean(kernel, axis=1)) for kernel in (k_x, k_y, k_x * k_y)])

        return bound(of_x[0], of_y[0]), bound(of_x[1], of_y[1])

    kl, bd = by_rows(rows, len(x))
    (kl_x, kl_y, kl_xy), (bd_x, bd_y, bd_xy) = jnp.mean(kl, axis=1), jnp.mean(bd, axis=1)
    return Estimate(kl_x + kl_y - kl_xy, bd_x + bd_y - kl_xy, kl_x + kl_y - bd_xy, jnp.log(float(len(x))))


def noise_variance(x: Float[Array, "n d"] | Distances, noise: float | Array) -> Float[Array, ""]:
    """s² = noise x the median squared distance of the pairs in the sample, or in 500 of it drawn by a fixed seed.

    Where most pairs coincide and the median is 0 to rounding, the mean squared distance of all pairs stands in for it;
    where all points coincide any scale gives 0 information, and s² is 1.
    """
    sample = x[some_samples(len(x), MEDIAN_SAMPLES)]
    squared = squared_distances(sample, jnp.arange(len(sample)))
    middle = _median(squared.ravel()[1:].reshape(len(sample) - 1, -1)[:, :-1])  # without the diagonal
    mean = jnp.mean(x.squared) if isinstance(x, Distances) else 2 * jnp.sum(jnp.var(x, axis=0))
    typical = jnp.where(middle > 1e-5 * mean, middle, mean)
    return jnp.where(typical > 0, noise * typical, 1)


def _median(values: Float[Array, "m ..."]) -> Float[Array, ""]:
    """The (lower) median of numbers from 0 on, to rounding, by halving: on CPU far faster than XLA's sort."""
    constants = jax.lax.stop_gradient(values)
    ones = jnp.ones(len(values), values.dtype)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (bounds[0] + bounds[1]) / 2
        lower = ones @ jnp.where(constants <= middle, 1, 0).astype(values.dtype)  # counted by a product, which is fast
        too_low = 2 * jnp.sum(lower) < values.size
        return jnp.where(too_low, middle, bounds[0]), jnp.where(too_low, bounds[1], middle)

    largest = jnp.max(constants)
    _, found = jax.lax.fori_loop(0, jnp.finfo(values.dtype).nmant + 8, halve, (jnp.zeros_like(largest), largest))
    return jnp.max(jnp.where(constants <= found, values, 0))  # the value itself, which has a gradient


def squared_distances(x: Float[Array, "n d"] | Distances, rows: Int[Array, " m"]) -> Float[Array, "m n"]:
    """Squared Euclidean distances of some rows to all; exactly 0 on the diagonal."""
    if isinstance(x, Distances):
        return x.squared[rows]
    x = x - jnp.mean(x, axis=0)  # keeps the cancellation below small
    norms = jnp.sum(x * x, axis=1)
    products = jnp.matmul(x[rows], x.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.maximum(norms[rows][:, None] + norms[None, :] - 2 * products, 0)
    return jnp.where(rows[:, None] == jnp.arange(len(x))[None, :], 0, squared)


def by_rows(function, n: int) -> tuple[Array, ...]:
    """`function(row indices) -> arrays [..., rows]` over all n rows in blocks, joined along the last axis.

    Gradients compute a block again instead of holding all of them. Under `jax.set_mesh` of a mesh with an (auto) axis "data"
    the rows of a block are spread over its devices, each of which holds all samples; the result is the same on all.
    """
    devices = _data_devices()
    blocks = math.ceil(n / (devices * _ROWS))
    size = math.ceil(n / (devices * blocks)) * devices
    index = jnp.minimum(jnp.arange(blocks * size), n - 1).reshape(blocks, size)
    if devices > 1:
        index = jax.lax.with_sharding_constraint(index, P(None, "data"))
    values = jax.lax.map(jax.checkpoint(function), index)
    if devices > 1:  # sums over all rows then run in the same order everywhere
        values = jax.lax.with_sharding_constraint(values, P())
    return jax.tree.map(lambda v: jnp.moveaxis(v, 0, -2).reshape(*v.shape[1:-1], -1)[..., :n], values)


def _data_devices() -> int:
    """Devices along the axis "data" of the mesh around; 1 where there is none, or inside a `jax.shard_map` over it."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape["data"] if axes.get("data") == AxisType.Auto else 1
