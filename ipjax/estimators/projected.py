"""Projection: another estimator on a few principal components that a separate half of the sample chose.

For estimators that need few dimensions, such as nearest neighbours, on layers that have many. Components fitted on the samples
that are judged would already know them.
"""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, pytree_settings
from ipjax.estimators.ross import Ross


@pytree_settings
class Projected:
    """Mean of an estimator over two halves, each projected on the leading principal components of the other.

    **Settings:**

    - `estimator`: any of `ipjax.estimators`: `Projected(Ross())` for labels, `Projected(KSG())` for a floating y, which is
        projected as well where it has more columns.
    - `num_components`: kept, at most as many as half the samples. They are not whitened.

    `lower`, `upper`, `ceiling`: the means of the halves' own. The estimator sees half the samples, and what the
    components leave out is lost: I of the projection is at most I of the features (data processing). Halves are drawn by the
    key, label-balanced; of an odd number one sample is left out.
    Cost: min(n, d)³ + n d min(n, d), and twice the estimator on n / 2.
    """

    estimator: Any = field(default_factory=Ross)
    num_components: int = field(default=3, metadata={"static": True})

    def __post_init__(self):
        if self.num_components < 1:
            raise ValueError(f"num_components: expected at least 1, got {self.num_components}")

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        half, own_key = len(x) // 2, jax.random.fold_in(key, 1)
        if self.num_components > half:
            raise ValueError(f"num_components: expected at most half the {len(x)} samples, got {self.num_components}")
        order = jax.random.permutation(key, len(x))
        if isinstance(y, Labels) and not y.distinct:
            order = order[jnp.argsort(y.values[order])]  # every other sample of each class
        order = order[: 2 * half].reshape(half, 2).T

        def judged(fit: Array, judge: Array) -> Estimate:
            project = partial(_project, fit=fit, count=self.num_components)
            if isinstance(y, Labels):
                return self.estimator(project(x)[judge], y[judge], own_key)
            return self.estimator(project(x)[judge], project(y)[judge], own_key)

        halves = jax.lax.map(lambda pair: judged(*pair), (order, order[::-1]))
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), halves)

    def warnings(self, x: Array, y: Labels | Array) -> list[str]:
        """The estimator's own on the projection of all samples; see `ipjax.assess`."""
        project = partial(_project, fit=jnp.arange(len(x)), count=self.num_components)
        own = getattr(self.estimator, "warnings", lambda x, y: [])
        return own(project(x), y if isinstance(y, Labels) else project(y))


def _project(values: Float[Array, "n d"], fit: Int[Array, " m"], count: int) -> Float[Array, "n count"]:
    """The values along the components of some of them; as they are where that would not be fewer columns."""
    return values if values.shape[1] <= count else values @ components(values[fit], count)


def components(x: Float[Array, "n d"], count: int) -> Float[Array, "d count"]:
    """The leading principal axes as columns; zero columns where there are fewer."""
    x = x - jnp.mean(x, axis=0)
    n, d = x.shape
    precise = jax.lax.Precision.HIGHEST
    if d <= n:
        axes = jnp.linalg.eigh(jnp.matmul(x.T, x, precision=precise))[1][:, ::-1]
    else:
        variance, vectors = jnp.linalg.eigh(jnp.matmul(x, x.T, precision=precise))
        scale = jnp.sqrt(jnp.where(variance > 1e-6 * variance[-1], variance, jnp.inf))
        axes = (jnp.matmul(x.T, vectors, precision=precise) / scale)[:, ::-1]
    return jnp.pad(axes[:, :count], ((0, 0), (0, max(0, count - axes.shape[1]))))
