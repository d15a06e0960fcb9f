"""Linear probe: the information about the label that a linear classifier can use.

V-information (Xu et al. 2020, arXiv:2002.10689) of the linear family: H(Y) less the held-out cross-entropy of a probe
(Alain and Bengio 2016), here Gaussian discriminant analysis with a ridge-shrunk shared covariance (Friedman 1989), whose
temperature is calibrated (Guo et al. 2017).
"""

from __future__ import annotations

from dataclasses import field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, pytree_settings

_INVERSE_TEMPERATURES = (0.0, *(2.0 ** (k / 2) for k in range(-12, 7)))
_AT_ONCE = 2**18  # scores of samples, at the temperatures that are tried together


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
        folds = _members(balanced_folds(y, self.num_folds, key), self.num_folds)
        ridges = jnp.asarray(self.ridges, x.dtype)

        def held_out(fold: Array) -> Float[Array, " m"]:
            test, calibration, *fit = jnp.roll(folds, -fold, axis=0)
            return _log_likelihood(x, y, jnp.concatenate(fit), calibration, test, ridges)

        of_folds = jax.lax.map(held_out, jnp.arange(self.num_folds))
        log_q = jnp.zeros(len(y), x.dtype).at[folds].set(of_folds, mode="drop")
        gain = log_q - jnp.log(y.counts() / len(y))[y.values]  # its mean is H(Y) - cross-entropy
        value = jnp.mean(gain)
        margin = 1.96 * jnp.std(gain) / jnp.sqrt(len(y))
        return Estimate(value, value - margin, value + margin, y.entropy())


def balanced_folds(y: Labels, num_folds: int, key: Array) -> Int[Array, " n"]:
    """A random fold for every sample, each class spread evenly."""
    order = jnp.lexsort((jax.random.uniform(key, (len(y),)), y.values))
    return jnp.zeros(len(y), jnp.int32).at[order].set((jnp.arange(len(y)) % num_folds).astype(jnp.int32))


def _members(folds: Int[Array, " n"], num_folds: int) -> Int[Array, "folds m"]:
    """The samples of every fold; n, which is none, at the end of those that have one less."""
    n = len(folds)
    sizes = np.bincount(np.arange(n) % num_folds)
    place = np.cumsum(sizes)[:, None] - sizes[:, None] + np.arange(sizes[0])
    return jnp.where(np.arange(sizes[0]) < sizes[:, None], jnp.argsort(folds)[np.minimum(place, n - 1)], n)


def _log_likelihood(
    x: Float[Array, "n d"],
    y: Labels,
    fit: Int[Array, " f"],
    calibration: Int[Array, " m"],
    test: Int[Array, " m"],
    ridges: Float[Array, " r"],
) -> Float[Array, " m"]:
    """ln q(y | x) of the test samples by the probe fitted on some samples and calibrated on others."""
    scores = _scores(x, y, fit, jnp.concatenate([calibration, test]), ridges)
    scores = scores - jnp.max(scores, axis=-1, keepdims=True)  # large ones would round the differences below
    log_prior = jnp.log(y.counts() / len(y))
    counted = calibration < len(y)
    doubt = 1 / (jnp.sum(counted) + 1)  # so few samples cannot vouch for more certainty than this (rule of succession)

    def log_q(scores: Float[Array, "m classes"], samples: Array, inverse_temperature: Array) -> Float[Array, " m"]:
        own = y.values.at[samples].get(mode="clip")
        logits = inverse_temperature * scores + log_prior
        of_label = jnp.sum(jnp.where(own[:, None] == jnp.arange(y.num_classes), logits, 0), axis=1)
        known = of_label - jax.nn.logsumexp(logits, axis=1)
        return jnp.logaddexp(jnp.log1p(-doubt) + known, jnp.log(doubt) + log_prior[own])

    def quality(scores: Float[Array, "m classes"]) -> Float[Array, " temperatures"]:
        def of(inverse_temperature: Array) -> Array:
            return jnp.sum(jnp.where(counted, log_q(scores, calibration, inverse_temperature), 0))

        return jax.lax.map(of, inverse_temperatures, batch_size=max(1, _AT_ONCE // scores.size))

    inverse_temperatures = jnp.asarray(_INVERSE_TEMPERATURES, x.dtype)
    of_calibration, of_test = jnp.split(scores, 2, axis=1)
    ridge, temperature = jnp.divmod(jnp.argmax(jax.lax.map(quality, of_calibration)), len(inverse_temperatures))
    return log_q(of_test[ridge], test, inverse_temperatures[temperature])


def _scores(
    x: Float[Array, "n d"], y: Labels, fit: Int[Array, " f"], judged: Int[Array, " j"], ridges: Float[Array, " r"]
) -> Float[Array, "r j classes"]:
    """Discriminant scores of some samples for each ridge, fitted on others."""
    weight = (fit < len(y)).astype(x.dtype)
    weight = weight / jnp.sum(weight)
    own, judged_rows, rows = (values.at[i].get(mode="clip") for values, i in ((y.values, fit), (x, judged), (x, fit)))
    mean = weight @ rows
    varies = jnp.any((rows != rows[0]) & (weight > 0)[:, None], axis=0)  # the mean of equal values need not equal them
    deviation = jnp.where(varies, jnp.sqrt(weight @ (rows - mean) ** 2), 0)
    rows, judged_rows = ((values - mean) / jnp.where(deviation > 0, deviation, 1) for values in (rows, judged_rows))
    members = jax.nn.one_hot(own, y.num_classes, dtype=x.dtype) * weight[:, None]
    frequency = jnp.sum(members, axis=0)
    means = (members.T @ rows) / jnp.where(frequency > 0, frequency, 1)[:, None]
    within = (rows - means[own]) * jnp.sqrt(weight)[:, None]
    covariance = within.T @ within
    size = jnp.trace(covariance) / jnp.maximum(jnp.sum(deviation > 0), 1)  # mean over the features that vary

    def score(ridge: Array) -> Float[Array, "j classes"]:
        shrunk = covariance + (ridge * size + 1e-6) * jnp.eye(len(covariance), dtype=x.dtype)
        factor = jax.lax.linalg.cholesky(shrunk, symmetrize_input=False)
        directions = jax.scipy.linalg.cho_solve((factor, True), means.T)
        return judged_rows @ directions - jnp.sum(means.T * directions, axis=0) / 2

    return jax.vmap(score)(ridges)
