"""Ross: mutual information of a continuous variable and a label from distances to nearest neighbours.

Ross 2014, "Mutual Information between Discrete and Continuous Data Sets" (PLoS ONE 9(2): e87357); coinciding points by the
rule of Gao, Kannan, Oh and Viswanath 2017 (arXiv:1709.06212).
"""

from __future__ import annotations

from dataclasses import field

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, pytree_settings
from ipjax.estimators.kde import by_rows
from ipjax.estimators.neighbours import columns, count, far_neighbours, in_tiles, max_norm, smallest


@pytree_settings
class Ross:
    """I(X; Y) of continuous x [n, d] and labels, in nats: mean of [ψ(n) - ψ(n_c) + ψ(k) - ψ(m_i)].

    n_c is the size of the sample's class, m_i the number of samples of any class within the distance (maximum norm) to its k-th
    neighbour in its own class, that one counted and the sample not.

    **Settings:**

    - `num_neighbors`: k. More neighbours vary less and are biased more.

    `lower` and `upper`: 95 % interval from the standard error over samples (bias not included). Ceiling: ψ(n) - mean ψ(n_c),
    which is the labels' entropy up to (classes - 1) / 2n. For one feature the value is that of scikit-learn's
    `mutual_info_classif`, less its jitter and its clipping at 0.

    Holds for few effective dimensions; in many, neighbours are far, and the value is too low. Features count as they are
    scaled. Classes of at most k members use all they have, and a class of one is left out, as scikit-learn does; `lower` and
    `upper` are then infinite to say so.

    Ties: all samples as near as the k-th neighbour count, those of the class as k and those of all classes as m, and a sample
    with k or more exact copies counts itself too (Gao et al.). So x may have atoms, such as the zeros of a ReLU, and a
    discrete x gives about its plug-in information where all its pairs of value and class occur more than k times; rarer pairs
    make the value too high (10 classes, one in ten wrong, n = 1,000: by 11 %). Cost: n² d, in blocks of rows.
    """

    num_neighbors: int = field(default=3, metadata={"static": True})

    def __post_init__(self):
        if self.num_neighbors < 1:
            raise ValueError(f"num_neighbors: expected at least 1, got {self.num_neighbors}")

    def __call__(self, x: Float[Array, "n d"], y: Labels | Array, key: Array) -> Estimate:
        del key
        n, k = len(x), self.num_neighbors
        if not isinstance(y, Labels):
            raise ValueError("Ross: expected integer labels [n], got floating y; use KSG for continuous y")
        if y.distinct:
            raise ValueError("Ross: every sample has a label of its own, so none has a neighbour; use KDE for I(X; C)")
        if k >= n:
            raise ValueError(
                f"num_neighbors: expected fewer than the {n} samples, got {k}; take fewer neighbours or more samples"
            )
        size = y.counts()[y.values]
        own, everyone = neighbour_counts(x, y, k)
        value, ceiling, margin = information(own, everyone, size)
        margin = jnp.where(jnp.any(size <= k), jnp.inf, margin)
        return Estimate(value, value - margin, value + margin, ceiling)

    def warnings(self, x: Array, y: Labels) -> list[str]:
        """Where the neighbours in a class are too far; see `ipjax.assess`."""
        found = far_neighbours(np.asarray(x), self.num_neighbors, np.asarray(y.values))
        return [found] if found else []


def information(
    own: Float[Array, " n"], everyone: Float[Array, " n"], size: Float[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """(value, ceiling, 1.96 standard errors) of k (`own`), m (`everyone`) and the class sizes; classes of one left out."""
    counted = size > 1
    n = jnp.sum(counted)

    def mean(values: Array) -> Array:
        return jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(n, 1)

    most = digamma(jnp.maximum(n, 1).astype(size.dtype)) - digamma(size)
    local = most + digamma(jnp.maximum(own, 1)) - digamma(jnp.maximum(everyone, 1))
    value = mean(local)
    return value, mean(most), 1.96 * jnp.sqrt(mean((local - value) ** 2) / jnp.maximum(n, 1))


def neighbour_counts(x: Float[Array, "n d"], y: Labels, k: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Of every sample: how many of its class and of all are as near as its k-th neighbour in the class (or the last one of a
    small class); itself included only where that one coincides with it."""
    tiles = in_tiles(jnp.where(y.counts()[y.values][:, None] > 1, x, jnp.inf))  # a class of one is nobody's neighbour
    column = columns(len(tiles))
    label = jnp.pad(y.values, (0, column.size - len(x)), constant_values=-1).reshape(column.shape)
    available = jnp.minimum(y.counts() - 1, k).astype(jnp.int32)[y.values]

    def rows(index: Int[Array, " r"]) -> tuple[Array, Array]:
        distances = max_norm(x[index], tiles)
        fellow = (y.values[index][:, None] == label) & (index[:, None] != column)
        of_class = jnp.where(fellow, distances, jnp.inf)
        neighbours = jnp.maximum(available[index], 1)
        radius = jnp.take_along_axis(smallest(of_class, k), neighbours[:, None] - 1, axis=1)[:, 0]
        ball = jnp.nextafter(radius, jnp.inf)  # closed, so that all who tie with the neighbour count
        itself = (radius == 0).astype(jnp.int32)
        own, everyone = count(of_class, ball) + itself, count(distances, ball) - 1 + itself
        return own.astype(x.dtype), everyone.astype(x.dtype)

    return by_rows(rows, len(x))  # pyright: ignore[reportReturnType]
