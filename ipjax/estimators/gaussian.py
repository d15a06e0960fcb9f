"""Gaussian channel: the information of a layer seen through Gaussian noise, as if its features were jointly normal.

Capacity of parallel Gaussian channels, Cover and Thomas, "Elements of Information Theory", 2nd edition, chapter 9; that the
normal distribution has the largest entropy of all with its covariance, theorem 8.6.5 there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ipjax.estimators.base import Estimate, Labels, check_positive, pytree_settings
from ipjax.estimators.kde import noise_variance


@pytree_settings
class GaussianChannel:
    """½ ln det(I + Σ/s²) of features C with covariance Σ seen through noise sZ, s² = `noise` x median squared distance.

    With G(Σ) that number, Σ the sample's covariance (divided by n) and s² the same for all classes,

    - every sample its own label: I(X; C + sZ), value = upper = G(Σ), which no distribution of this covariance exceeds,
    - labels: I(C + sZ; Y), value = G(Σ) - Σ_c p_c G(Σ_c), exact where all is normal, within each class and together (as classes
        with equal means are); elsewhere an estimate that may lie on either side. upper = G(Σ) bounds it,
    - floating y [n, dy], with noise of the same rule: I(A; B) of both noisy sides, value = G(Σ_A) + G(Σ_B) - G(Σ_AB),
        exact for normal data; upper = min(G(Σ_A), G(Σ_B)).

    `lower` is 0: covariances alone give no better bound. Ceiling: the labels' entropy (ln n where every sample is its own
    label, or y is floating). The value may exceed it, and then rests on the normal model alone: it counts as saturated.

    Bias: with f = λ/(λ + s²) of each eigenvalue of Σ (about 1 where a direction stands out of the noise), normal data give
    G(Σ) too low by [(Σf)² + Σf² + 2Σf] / 4n, about d²/4n. Classes are smaller, so with labels the value is too high, by
    about (classes - 1) times that. It fails where n is not much larger than (Σf)² x classes, and where the noise is
    small against the distance between clusters: two far points count as a long normal, worth more than ln 2.
    Cost: n d min(n, d) + (classes + 1) (n r² + r³) with r = min(n, d); classes of one sample are skipped.
    """

    noise: float | Float[Array, ""] = 0.05

    def __post_init__(self):
        check_positive(noise=self.noise)

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        del key
        if isinstance(y, Labels):
            return _with_labels(x, y, self.noise)
        return _with_features(x, y, self.noise)


def _with_labels(x: Float[Array, "n d"], y: Labels, noise: float | Array) -> Estimate:
    x = few_coordinates(x / jnp.sqrt(noise_variance(x, noise)))
    everyone = channel_information(x, jnp.ones(len(x)))
    counts = y.counts()

    def within(label: Array) -> Float[Array, ""]:
        several = counts[label] > 1  # one sample has no covariance, and with own labels there are n such classes
        return jax.lax.cond(
            several, lambda: channel_information(x, (y.values == label) * 1.0), lambda: jnp.zeros_like(everyone)
        )

    by_class = jax.lax.map(within, jnp.arange(y.num_classes))
    value = everyone - jnp.sum(counts / len(x) * by_class)
    return Estimate(value, jnp.zeros_like(value), everyone, y.entropy())


def _with_features(x: Float[Array, "n dx"], y: Float[Array, "n dy"], noise: float | Array) -> Estimate:
    x, y = (side / jnp.sqrt(noise_variance(side, noise)) for side in (x, y))
    weight = jnp.ones(len(x))
    of_x, of_y, joint = (channel_information(few_coordinates(side), weight) for side in (x, y, jnp.concatenate([x, y], axis=1)))
    value = of_x + of_y - joint
    return Estimate(value, jnp.zeros_like(value), jnp.minimum(of_x, of_y), jnp.log(jnp.asarray(len(x), value.dtype)))


def channel_information(x: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, ""]:
    """½ ln det(I + Σ), Σ the weighted covariance of features in units of the noise."""
    weight = weight / jnp.sum(weight)
    deviation = (x - weight @ x) * jnp.sqrt(weight)[:, None]
    covariance = jnp.matmul(deviation.T, deviation, precision=jax.lax.Precision.HIGHEST)
    factor = jnp.linalg.cholesky(jnp.eye(len(covariance), dtype=x.dtype) + covariance)
    return jnp.sum(jnp.log(jnp.diagonal(factor)))


def few_coordinates(x: Float[Array, "n d"]) -> Float[Array, "n r"]:
    """The samples in r = min(n, d) coordinates with the same inner products, so the same eigenvalues of any covariance."""
    n, d = x.shape
    return x if d <= n else jnp.linalg.qr((x - jnp.mean(x, axis=0)).T, mode="r").T
