"""Variational information: a trained critic f(x, y) that tells true pairs from pairs of different samples.

Poole et al. 2019, "On Variational Bounds of Mutual Information" (arXiv:1905.06922); Belghazi et al. 2018, MINE
(arXiv:1801.04062); van den Oord et al. 2018, InfoNCE (arXiv:1807.03748); Song and Ermon 2020, SMILE (arXiv:1910.06222).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, check_positive, pytree_settings

Scores = Float[Array, "batch batch"]  # f(x_i, y_j): true pairs on the diagonal, pairs of different samples beside it
Bound = Callable[[Scores], Float[Array, ""]]
Parameters = Any

_STEPS_A_ROUND = 20  # between two looks at the validation fold
_MOST_SCORED = 1024  # samples a block of held-out scores


@pytree_settings
class Critic:
    """f(x, y) = g(x) · h(y), both small networks, and how they are trained: the settings that the estimators here share.

    Separable, so that the batch² pairs of a batch cost 2 x batch passes. Labels are one-hot, features are standardised and
    go through arsinh: a strictly monotone map of single features keeps the information, and without it a few far samples of
    heavy tails rule the critic. Of `num_folds` equal, label-balanced folds (up to `num_folds` - 1 samples are left out) one
    is held out in turn, the next one chooses among the parameters of every 20th step, from the useless critic f = 0 on, and
    the others train. An estimate is the mean over the held-out folds: no sample is scored by a critic that saw it or was
    chosen by it.

    **Settings:**

    - `hidden`, `embedding`: units of the two hidden layers; length of g and h.
    - `batch_size`: pairs come from within a batch; cut to the size of a fold.
    - `num_steps`: of Adam, for each fold, rounded up to a multiple of 20.
    - `learning_rate`: of Adam.
    - `num_folds`: at least 3.
    """

    hidden: int = field(default=32, metadata={"static": True})
    embedding: int = field(default=16, metadata={"static": True})
    batch_size: int = field(default=128, metadata={"static": True})
    num_steps: int = field(default=400, metadata={"static": True})
    learning_rate: float | Float[Array, ""] = 2e-3
    num_folds: int = field(default=5, metadata={"static": True})

    def __post_init__(self):
        least = {"hidden": 1, "embedding": 1, "batch_size": 2, "num_steps": 1, "num_folds": 3}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}: expected at least {smallest}, got {getattr(self, name)}")
        check_positive(learning_rate=self.learning_rate)


@pytree_settings
class InfoNCE:
    """The information by which the critic picks the true partner among a batch: a lower bound of I(X; Y) in expectation.

    `lower` and `upper`: 95 % interval from the spread over the folds (Student's t), critics' variation included.
    Ceiling: ln batch, or the labels' entropy where that is smaller. Low variance, but it bends below the truth as this
    nears the ceiling. Takes labels that repeat, or floating y [n, dy]. All critics fall short by what their training
    samples do not teach: on normal pairs at n = 2,000 by .02 of .41 nats in one dimension (each of the four), .14 (`InfoNCE`)
    to .28 (`SMILE`) of 1.24 in three.
    Cost: folds x steps x batch (d hidden + hidden² + batch embedding), under 1 s at n = 2,000 on two CPU cores after some
    7 s of compiling; `measure_plane` multiplies it by 1 + shuffles + halves.
    """

    critic: Critic = field(default_factory=Critic)

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        batch = min(self.critic.batch_size, len(x) // self.critic.num_folds)
        ceiling = math.log(max(batch, 1))
        return _cross_fitted(self, x, y, key, objective=infonce, bound=infonce, ceiling=ceiling, block=batch)


@pytree_settings
class NWJ:
    """Nguyen, Wainwright and Jordan's f-divergence bound: a lower bound of I(X; Y) in expectation, without a ceiling.

    Interval, data and cost as `InfoNCE`. Ceiling: infinite; with labels their entropy, which the value may exceed by
    about (classes - 1) / samples of a fold, and by more where a class has a single one there. Its variance grows as e^I: a few
    pairs decide, and values .1 too low occur at .4 nats already.
    """

    critic: Critic = field(default_factory=Critic)

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        return _cross_fitted(self, x, y, key, objective=nwj, bound=nwj)


@pytree_settings
class DonskerVaradhan:
    """Donsker and Varadhan's bound, the one that MINE trains (here without its moving average).

    Interval, data, ceiling and cost as `NWJ`. The logarithm of a held-out mean is too small on average, so the value is no
    strict lower bound; the excess is O(variance of e^f / pairs), and the variance grows as e^I.
    """

    critic: Critic = field(default_factory=Critic)

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        return _cross_fitted(self, x, y, key, objective=donsker_varadhan, bound=donsker_varadhan)


@pytree_settings
class SMILE:
    """Donsker and Varadhan's formula with e^f cut to e^±`clip` in the partition function: less variance, and no bound.

    The critic is trained and chosen by the Jensen-Shannon objective, as in the authors' code, since the clipped
    formula itself is unbounded in f. Interval, data, ceiling and cost as `NWJ`, but the value may exceed the labels' entropy.
    A small `clip` biases it, upwards where ln p(x, y) / p(x) p(y) passes `clip`.
    """

    clip: float | Float[Array, ""] = 5.0
    critic: Critic = field(default_factory=Critic)

    def __post_init__(self):
        check_positive(clip=self.clip)

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        return _cross_fitted(self, x, y, key, objective=jensen_shannon, bound=lambda scores: smile(scores, self.clip))


def infonce(scores: Scores) -> Float[Array, ""]:
    """E ln e^f(x_i, y_i) / (mean over j of e^f(x_i, y_j)), the true partner among the j."""
    return jnp.mean(jnp.diagonal(scores) - jax.nn.logsumexp(scores, axis=1)) + math.log(len(scores))


def nwj(scores: Scores) -> Float[Array, ""]:
    """1 + E f(true pairs) - E e^f(others), which is E g - e⁻¹ E e^g of the critic g = f + 1 that Poole et al. write it in."""
    return 1 + jnp.mean(jnp.diagonal(scores)) - jnp.exp(log_mean_exp_others(scores))


def donsker_varadhan(scores: Scores) -> Float[Array, ""]:
    """E f(true pairs) - ln E e^f(others)."""
    return jnp.mean(jnp.diagonal(scores)) - log_mean_exp_others(scores)


def smile(scores: Scores, clip: float | Array) -> Float[Array, ""]:
    """E f(true pairs) - ln E clip(e^f, e^-clip, e^clip)(others)."""
    return jnp.mean(jnp.diagonal(scores)) - log_mean_exp_others(jnp.clip(scores, -clip, clip))


def jensen_shannon(scores: Scores) -> Float[Array, ""]:
    """-E softplus(-f)(true pairs) - E softplus(f)(others), largest where f = ln p(x, y) / p(x) p(y)."""
    others = ~jnp.eye(len(scores), dtype=bool)
    return -jnp.mean(jax.nn.softplus(-jnp.diagonal(scores))) - jnp.mean(jax.nn.softplus(scores), where=others)


def log_mean_exp_others(scores: Scores) -> Float[Array, ""]:
    """ln of the mean of e^f over pairs of different samples."""
    n = len(scores)
    others = ~jnp.eye(n, dtype=bool)
    return jax.nn.logsumexp(scores, where=others) - math.log(n * (n - 1))


def _cross_fitted(
    estimator: Any,
    x: Float[Array, "n dx"],
    y: Labels | Array,
    key: Array,
    *,
    objective: Bound,
    bound: Bound,
    ceiling: float = math.inf,
    block: int = _MOST_SCORED,
) -> Estimate:
    """The mean of a bound over held-out folds, of critics that others trained and chose by an objective."""
    name, settings = type(estimator).__name__, estimator.critic
    n, num_folds = len(x), settings.num_folds
    size = n // num_folds
    if size < 2:
        raise ValueError(
            f"{name}: expected at least {2 * num_folds} samples, 2 in each of {num_folds} folds, got {n}; "
            "use more samples, or KDE or GaussianChannel"
        )
    if isinstance(y, Labels) and y.distinct:
        raise ValueError(f"{name}: every sample has a label of its own, so none can be held out; use KDE or Binned for I(X; C)")
    fold_key, train_key = jax.random.split(key)
    classes = y.values if isinstance(y, Labels) else jnp.zeros(n, jnp.int32)
    by_class = jnp.lexsort((jax.random.uniform(fold_key, (n,)), classes))
    members = by_class[: size * num_folds].reshape(size, num_folds).T  # every class spread over the folds, sorted in each
    from scipy.special import stdtrit  # takes long to import

    targets = jax.nn.one_hot(y.values, y.num_classes, dtype=x.dtype) if isinstance(y, Labels) else y

    def held_out(fold: Array, key: Array) -> Float[Array, ""]:
        test, validation, *train = jnp.roll(members, -fold, axis=0)
        fit = jnp.concatenate(train)
        a = jnp.arcsinh(standardised(x, fit))
        b = targets if isinstance(y, Labels) else jnp.arcsinh(standardised(targets, fit))
        parameters = train_critic((a[fit], b[fit]), (a[validation], b[validation]), objective, settings, key)
        return score(parameters, a[test], b[test], bound, min(block, size))

    values = jax.vmap(held_out)(jnp.arange(num_folds), jax.random.split(train_key, num_folds))
    value = jnp.mean(values)
    margin = float(stdtrit(num_folds - 1, 0.975)) / math.sqrt(num_folds) * jnp.std(values, ddof=1)
    ceilings = jnp.asarray(ceiling, value.dtype)
    return Estimate(
        value, value - margin, value + margin, jnp.minimum(ceilings, y.entropy()) if isinstance(y, Labels) else ceilings
    )


def train_critic(
    train: tuple[Array, Array], validation: tuple[Array, Array], objective: Bound, settings: Critic, key: Array
) -> Parameters:
    """The parameters, of every 20th step from the start on, with the largest objective on the validation fold."""
    import optax  # takes long

    (x, y), (n, held_out) = train, (len(train[0]), len(validation[0]))
    size = min(settings.batch_size, held_out)
    some = evenly(min(held_out, _MOST_SCORED), held_out)
    judged_x, judged_y = validation[0][some], validation[1][some]
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.learning_rate))
    init_key, batch_key = jax.random.split(key)
    start = (_network(init_key, x, settings), _network(jax.random.fold_in(init_key, 1), y, settings, 0.0))

    def loss(parameters: Parameters, index: Int[Array, " batch"]) -> Float[Array, ""]:
        return -objective(scores_of(parameters, x[index], y[index]))

    def step(state: tuple[Parameters, Any], index: Int[Array, " batch"]) -> tuple[tuple[Parameters, Any], None]:
        parameters, moments = state
        updates, moments = optimiser.update(jax.grad(loss)(parameters, index), moments)
        return (optax.apply_updates(parameters, updates), moments), None

    def round_of_steps(state: tuple[Any, Parameters, Array], key: Array) -> tuple[tuple[Any, Parameters, Array], None]:
        training, best, quality = state
        reached = score(training[0], judged_x, judged_y, objective, min(size, _MOST_SCORED))
        better = reached > quality
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), training[0], best)
        batches = jax.random.randint(key, (_STEPS_A_ROUND, size), 0, n)
        training, _ = jax.lax.scan(step, training, batches)
        return (training, best, jnp.where(better, reached, quality)), None

    rounds = jax.random.split(batch_key, 1 + math.ceil(settings.num_steps / _STEPS_A_ROUND))  # the last one only judges
    state = ((start, optimiser.init(start)), start, jnp.asarray(-jnp.inf, x.dtype))
    return jax.lax.scan(round_of_steps, state, rounds)[0][1]


def score(
    parameters: Parameters, x: Float[Array, "n dx"], y: Float[Array, "n dy"], bound: Bound, block: int
) -> Float[Array, ""]:
    """The mean of a bound over blocks of samples of one size, each spread evenly over all; some samples count twice."""
    blocks = math.ceil(len(x) / block)
    index = evenly(blocks * block, len(x)).reshape(block, blocks).T
    return jnp.mean(jax.lax.map(lambda rows: bound(scores_of(parameters, x[rows], y[rows])), index))


def evenly(count: int, n: int) -> np.ndarray:
    """As many indices from 0 to n - 1, evenly spread: all of them if count >= n, none twice if count <= n."""
    return (2 * np.arange(count) + 1) * n // (2 * count)


def scores_of(parameters: Parameters, x: Float[Array, "batch dx"], y: Float[Array, "batch dy"]) -> Scores:
    """f(x_i, y_j) = g(x_i) · h(y_j)."""
    g, h = parameters
    return _apply(g, x) @ _apply(h, y).T


def standardised(values: Float[Array, "n d"], fit: Int[Array, " m"]) -> Float[Array, "n d"]:
    """Mean 0 and variance 1 on the samples to fit; columns that do not vary there are 0 on them."""
    mean, deviation = jnp.mean(values[fit], axis=0), jnp.std(values[fit], axis=0)
    return (values - mean) / jnp.where(deviation > 1e-6, deviation, 1)


def _network(key: Array, inputs: Float[Array, "n d"], settings: Critic, last: float = 1.0) -> list[tuple[Array, Array]]:
    """Weights and biases of two hidden layers, scaled by how many inputs vary, and a linear one, scaled by `last` too."""
    sizes = (inputs.shape[1], settings.hidden, settings.hidden, settings.embedding)
    varying = jnp.maximum(jnp.sum(jnp.ptp(inputs, axis=0) > 0), 1)
    variances = (2 / varying, 2 / settings.hidden, last * 2 / settings.hidden)
    keys = jax.random.split(key, 3)
    return [
        (jnp.sqrt(variance) * jax.random.normal(k, (a, b)), jnp.zeros(b))
        for k, a, b, variance in zip(keys, sizes[:-1], sizes[1:], variances, strict=True)
    ]


def _apply(layers: list[tuple[Array, Array]], values: Float[Array, "n d"]) -> Float[Array, "n embedding"]:
    for weights, bias in layers[:-1]:
        values = jax.nn.gelu(values @ weights + bias)
    weights, bias = layers[-1]
    return values @ weights + bias
