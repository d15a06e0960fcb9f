"""Linear probe: the information about the label that a linear classifier can use.

V-information (Xu et al. 2020, arXiv:2002.10689) of the linear family: H(Y) less the held-out cross-entropy of a probe
(Alain and Bengio 2016), here Gaussian discriminant analysis with a ridge-shrunk shared covariance (Friedman 1989), whose
temperature is calibrated (Guo et al. 2017).
"""

from __future__ import annotations

from dataclasses import field

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from ipjax.estimators.base import Estimate, Labels, pytree_settings

_INVERSE_TEMPERATURES = (0.0, *(2.0 ** (k / 2) for k in range(-12, 7)))


@pytree_settings
class Probe:
    """H(Y) - cross-entropy of a calibrated linear probe, cross-fitted: each sample is judged by a probe that did not see it.

    Of `num_folds` label-balanced folds one is held out in turn, the next one chooses ridge and temperature, the others fit
    in closed form, on standardised features. The score is shifted by the classes' log frequencies, and the probabilities are
    mixed with these in a share of 1 / (calibration samples + 1), so that a useless probe gives about 0 and a few confident
    mistakes do not decide.

    **Settings:**

    - `num_folds`: at least 3.
    - `ridges`: candidates for the share of the mean variance added to the covariance.

    `lower` and `upper`: 95 % interval from the standard error over samples (the probe's own variation not included). Ceiling:
    H(Y), with the class frequencies of all samples. Needs labels. In expectation it lies below I(C; Y), by what is not linear
    in C and by what the sample is too small to learn, about (classes - 1) (d + 1) / 1.2 n. Cost: n d² a fold, d³ a fold and
    ridge.
    """

    num_folds: int = field(default=5, metadata={"static": True})
    ridges: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

    def __post_init__(self):
        if isinstance(self.num_folds, int) and self.num_folds < 3:
            raise ValueError(f"num_folds: expected at least 3 (fit, calibrate, judge), got {self.num_folds}")
        numbers = [ridge for ridge in self.ridges if isinstance(ridge, int | float)]
        if len(self.ridges) == 0 or not all(0 <= ridge < float("inf") for ridge in numbers):
            raise ValueError(f"ridges: expected at least one finite number from 0 on, got {self.ridges}")

    def __call__(self, x: Float[Array, "n d"], y: Labels | Array, key: Array) -> Estimate:
        if not isinstance(y, Labels):
            raise ValueError("Probe: expected integer labels [n], got floating y; use KDE or Binned for continuous y")
        if y.distinct:
            raise ValueError(
                "Probe: every sample has a label of its own, so none can be held out; use KDE or Binned for I(X; C)"
            )
        if len(y) < self.num_folds:
            raise ValueError(
                f"Probe: expected at least {self.num_folds} samples, one in each fold, got {len(y)}; use more samples"
            )
        folds = balanced_folds(y, self.num_folds, key)
        ridges = jnp.asarray(self.ridges, x.dtype)

        def held_out(fold: Array) -> Float[Array, " n"]:
            test, calibration = folds == fold, folds == (fold + 1) % self.num_folds
            return jnp.where(test, _log_likelihood(x, y, ~(test | calibration), calibration, ridges), 0)

        log_q = jnp.sum(jax.lax.map(held_out, jnp.arange(self.num_folds)), axis=0)
        gain = log_q - jnp.log(y.counts() / len(y))[y.values]  # its mean is H(Y) - cross-entropy
        value = jnp.mean(gain)
        margin = 1.96 * jnp.std(gain) / jnp.sqrt(len(y))
        return Estimate(value, value - margin, value + margin, y.entropy())


def balanced_folds(y: Labels, num_folds: int, key: Array) -> Int[Array, " n"]:
    """A random fold for every sample, each class spread evenly."""
    order = jnp.lexsort((jax.random.uniform(key, (len(y),)), y.values))
    return jnp.zeros(len(y), jnp.int32).at[order].set((jnp.arange(len(y)) % num_folds).astype(jnp.int32))


def _log_likelihood(
    x: Float[Array, "n d"], y: Labels, fit: Bool[Array, " n"], calibrate: Bool[Array, " n"], ridges: Float[Array, " r"]
) -> Float[Array, " n"]:
    """ln q(y | x) of every sample by the probe fitted and calibrated on the marked ones."""
    scores = _scores(x, y, fit, ridges)
    log_prior = jnp.log(y.counts() / len(y))
    doubt = 1 / (jnp.sum(calibrate) + 1)  # so few samples cannot vouch for more certainty than this (rule of succession)

    def log_q(scores: Array, inverse_temperature: Array) -> Float[Array, " n"]:
        logits = jax.nn.log_softmax(inverse_temperature * scores + log_prior, axis=-1)
        logits = jnp.logaddexp(jnp.log1p(-doubt) + logits, jnp.log(doubt) + log_prior)
        return jnp.take_along_axis(logits, y.values[:, None], axis=1)[:, 0]

    inverse_temperatures = jnp.asarray(_INVERSE_TEMPERATURES, x.dtype)
    # One by one: all candidates' scores of many classes would not fit.
    candidates = jax.lax.map(lambda s: jax.lax.map(lambda t: log_q(s, t), inverse_temperatures), scores)
    quality = jnp.sum(jnp.where(calibrate, candidates, 0), axis=-1)
    best = jnp.argmax(quality)
    return candidates.reshape(-1, len(x))[best]


def _scores(
    x: Float[Array, "n d"], y: Labels, fit: Bool[Array, " n"], ridges: Float[Array, " r"]
) -> Float[Array, "r n classes"]:
    """Discriminant scores for each ridge, fitted on the marked samples."""
    weight = fit.astype(x.dtype) / jnp.sum(fit)
    mean = weight @ x
    deviation = jnp.sqrt(weight @ (x - mean) ** 2)
    x = (x - mean) / jnp.where(deviation > 0, deviation, 1)
    members = jax.nn.one_hot(y.values, y.num_classes, dtype=x.dtype) * weight[:, None]
    frequency = jnp.sum(members, axis=0)
    means = (members.T @ x) / jnp.where(frequency > 0, frequency, 1)[:, None]
    within = x - means[y.values]
    covariance = (within * weight[:, None]).T @ within
    size = jnp.trace(covariance) / jnp.maximum(jnp.sum(deviation > 0), 1)  # mean over the features that vary

    def score(ridge: Array) -> Float[Array, "n classes"]:
        shrunk = covariance + (ridge * size + 1e-6) * jnp.eye(len(covariance), dtype=x.dtype)
        directions = jax.scipy.linalg.solve(shrunk, means.T, assume_a="pos")
        return x @ directions - jnp.sum(means.T * directions, axis=0) / 2

    return jax.vmap(score)(ridges)
