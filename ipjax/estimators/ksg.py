"""KSG: mutual information of two continuous variables from distances to nearest neighbours.

Kraskov, Stögbauer and Grassberger 2004, "Estimating mutual information" (Phys. Rev. E 69, 066138; arXiv:cond-mat/0305641),
both of its estimators; coinciding points by the rule of Gao, Kannan, Oh and Viswanath 2017 (arXiv:1709.06212).
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, pytree_settings
from ipjax.estimators.kde import by_rows
from ipjax.estimators.neighbours import columns, count, far_neighbours, in_tiles, larger, largest, max_norm, smallest, ties


@pytree_settings
class KSG:
    """I(X; Y) of continuous x [n, dx] and y [n, dy], in nats, by the maximum norm in each space and jointly.

    Each space is first divided by the root of its features' mean variance, since ε below compares distances in the one with
    those in the other; within a space, features count as they are scaled. With ε_i the joint distance from sample i to its k-th
    neighbour, and ψ the digamma function,

    - variant 1: ψ(k) + ψ(n) - mean [ψ(n_x + 1) + ψ(n_y + 1)], n_x the others that are nearer than ε_i in x;
    - variant 2: ψ(k) - 1/k + ψ(n) - mean [ψ(n_x) + ψ(n_y)], n_x the others within the k neighbours' own extent in x.

    **Settings:**

    - `num_neighbors`: k. More neighbours vary less and are biased more.
    - `variant`: 1 or 2; the first varies less, the second is less biased in more dimensions.

    `lower` and `upper`: 95 % interval from the standard error over samples (bias not included), too short, since the terms of
    neighbours depend on each other: over fresh samples the value varies 1.2 to 1.6 times as much at n = 1,000. Ceiling: ψ(n)
    - ψ(k), for variant 2 less 1/k; a truth near it or above needs more samples (n grows like its exponential).

    Holds for variables with a density and few effective dimensions. In many the k-th neighbour is so far that the density is
    not constant within ε_i, and the value is too low: for 10,000 samples of d normal pairs with ρ = .75 by 1 % at d = 2, a
    sixth at d = 5, half at d = 10. Edges and heavy tails cost up to 12 % in one dimension at n = 1,000, and dependence in the
    tails alone (Student t of 3 degrees) is missed by half from d = 2 on. A deterministic y = f(x) has infinite information
    and gives at most the ceiling.

    Ties: where a sample has k or more exact copies, ε_i = 0 and there is no density. Such a sample counts all its
    copies in x, y and jointly (Gao et al.), and `lower` and `upper` are infinite to say so. No noise is added. Data on a
    lattice tie without coinciding, which `warnings` says. Needs floating y, and k < n. Cost: n² (dx + dy), in blocks of rows.
    """

    num_neighbors: int = field(default=3, metadata={"static": True})
    variant: Literal[1, 2] = field(default=1, metadata={"static": True})

    def __post_init__(self):
        if self.num_neighbors < 1:
            raise ValueError(f"num_neighbors: expected at least 1, got {self.num_neighbors}")
        if self.variant not in (1, 2):
            raise ValueError(f"variant: expected 1 or 2, got {self.variant!r}")

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        del key
        if isinstance(y, Labels):
            raise ValueError("KSG: expected floating y [n, dy], got labels; use Ross for labels")
        n, k = len(x), self.num_neighbors
        if k >= n:
            raise ValueError(
                f"num_neighbors: expected fewer than the {n} samples, got {k}; take fewer neighbours or more samples"
            )
        distance, joint, of_x, of_y = neighbour_counts(x, y, k, self.variant)
        if self.variant == 1:
            local = digamma(float(k)) - digamma(of_x) - digamma(of_y)
        else:
            local = digamma(float(k)) - 1 / k - digamma(of_x - 1) - digamma(of_y - 1)
        tied = distance == 0
        local = digamma(float(n)) + jnp.where(tied, digamma(joint) - digamma(of_x) - digamma(of_y), local)
        value = jnp.mean(local)
        margin = jnp.where(jnp.any(tied), jnp.inf, 1.96 * jnp.std(local) / jnp.sqrt(n))
        ceiling = digamma(float(n)) - digamma(float(k)) - (self.variant - 1) / k
        return Estimate(value, value - margin, value + margin, ceiling)

    def warnings(self, x: Array, y: Array) -> list[str]:
        """Where the neighbours are too far, or values tie; see `ipjax.assess`."""
        both = np.concatenate([np.asarray(side / unit(side)) for side in (x, y)], axis=1)
        return [found for found in (far_neighbours(both, self.num_neighbors), ties(both)) if found]


def unit(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """The root of the mean variance of the features that vary."""
    varying = jnp.sum(jnp.ptp(x, axis=0) > 0)
    variance = jnp.sum(jnp.var(x, axis=0)) / jnp.maximum(varying, 1)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


def neighbour_counts(
    x: Float[Array, "n dx"], y: Float[Array, "n dy"], k: int, variant: int
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
    """Of every sample: the joint distance ε to its k-th neighbour, then how many samples, itself included, coincide with it,
    and how many lie in the variant's interval around it in x and in y (where ε is 0: coincide with it in x and in y)."""
    x_tiles, y_tiles = in_tiles(x), in_tiles(y)
    per_x, per_y = 1 / unit(x), 1 / unit(y)  # for distances and not for features, where rounding would part what ties

    def rows(index: Int[Array, " r"]) -> tuple[Array, ...]:
        of_x, of_y = max_norm(x[index], x_tiles, per_x), max_norm(y[index], y_tiles, per_y)
        joint = jnp.where(index[:, None] == columns(len(x_tiles)), jnp.inf, larger(of_x, of_y))
        distance = smallest(joint, k)[:, -1]
        none = jnp.zeros_like(distance)  # the copies of samples that have a distance do not matter
        copies = jax.lax.cond(jnp.any(distance == 0), lambda: 1 + count(joint, none), lambda: none.astype(jnp.int32))
        if variant == 1:
            radii = distance, distance
        else:
            near = joint <= distance[:, None]
            radii = (jnp.nextafter(largest(of, near), jnp.inf) for of in (of_x, of_y))
        counts = copies, *(count(of, radius) for of, radius in zip((of_x, of_y), radii, strict=True))
        return distance, *(number.astype(x.dtype) for number in counts)

    return by_rows(rows, len(x))  # pyright: ignore[reportReturnType]
