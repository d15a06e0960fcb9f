"""The honesty protocol: an estimate of any estimator with what is needed to judge it.

A null from shuffled pairs with its p-value (Phipson and Smyth 2010, arXiv:1603.05766), an interval from halves of the sample
(Politis and Romano 1994; Holmes and Nemenman 2019, arXiv:1903.09280), the extrapolation to an infinite sample from the same
halves (Strong et al. 1998), and warnings in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpy.typing import ArrayLike

from ipjax.estimators.base import Estimate, Estimator, Labels, checked, together, varying
from ipjax.estimators.kde import held
from ipjax.files import Record

_MIN_PER_CLASS = 20
_AT_ONCE = 2**27  # entries of the blocks of pairwise matrices that shuffles may hold together


def assess(
    x: ArrayLike,
    y: ArrayLike | Labels,
    estimator: Estimator,
    *,
    num_null: int = 19,
    num_subsamples: int = 10,
    seed: int = 0,
) -> Record:
    """The mutual information of `x` and `y`, in nats, with its null, interval, extrapolation and warnings.

    **Arguments:**

    - `x`, `y`, `estimator`: as `ipjax.mutual_information` takes them.
    - `num_null`: how often y is shuffled; 19 give p-values down to .05. Not done where every sample is its own label, since
        then a shuffle changes nothing.
    - `num_subsamples`: halves of the sample, drawn without replacement (a bootstrap's duplicates would break pairwise and
        nearest-neighbour estimators).

    **Returns** a dict; `None` where not measured or where the estimator gives none:

    - `information`, `lower`, `upper`, `ceiling`, `saturated`: the `ipjax.Estimate`.
    - `null`, `null_upper`: mean and largest of the shuffles. `p_value`: (1 + shuffles that reach the value) / (1 + shuffles).
    - `interval_lower`, `interval_upper`: 95 % interval, the sampling spread alone, not the estimator's bias.
    - `extrapolated`: 2 x the value - the mean of the halves, where a bias of order 1/n is gone.
    - `subsamples`: the estimates on the halves.
    - `warnings`: why not to take the number at its face value, separated by semicolons.

    **Raises:** `ValueError` as `mutual_information` does, for a value that is not finite, and for too few samples to halve.
    """
    check_counts(num_null, num_subsamples)
    check_estimator(estimator)
    x, y = checked(x, y)
    return assess_checked(x, {"x": y}, estimator, num_null, num_subsamples, jax.random.key(seed))["x"]


def check_estimator(estimator: Any) -> None:
    """Raises `ValueError` for a class where one of its objects was meant, and for what cannot be called."""
    if isinstance(estimator, type) or not callable(estimator):
        raise ValueError(f"estimator: expected an object such as KDE() of ipjax.estimators, got {estimator!r}")


def check_counts(num_null: int, num_subsamples: int) -> None:
    """Raises `ValueError` for numbers of shuffles and halves from which no null or interval could come."""
    integers = all(isinstance(count, int | np.integer) for count in (num_null, num_subsamples))
    if not integers or num_null < 0 or num_subsamples < 0 or num_subsamples == 1:
        raise ValueError(f"num_null, num_subsamples: expected 0 or more, and not 1 subsample; got {num_null}, {num_subsamples}")


def assess_checked(
    x: Float[Array, "n d"],
    ys: Mapping[str, Labels | Array],
    estimator: Estimator,
    num_null: int,
    num_subsamples: int,
    key: Array,
    *,
    where: str = "",
) -> dict[str, Record]:
    """`assess` of what `ipjax.estimators.base.checked` returned, for each y by name (which errors give, with `where`).

    The same key draws the same shuffles and halves for any x and y.
    """
    if len(x) < 4 and num_subsamples:
        raise ValueError(f"samples: expected at least 4 to draw halves from, got {len(x)}; pass num_subsamples=0 for fewer")
    shuffles = 0 if all(map(_distinct, ys.values())) else num_null
    measured = jax.device_get(_measure(estimator, x, list(ys.values()), key, shuffles, num_subsamples))
    features, records = np.asarray(x), {}
    constant, hashes = x.shape[1] - int(varying(features).sum()), [hash(row.tobytes()) for row in features]
    of_features = f"{constant} of {x.shape[1]} features do not vary, or too little beside the others for single precision"
    for (name, y), (estimate, nulls, halves) in zip(ys.items(), measured, strict=True):
        record = _record(estimate, nulls, halves, 0 if _distinct(y) else num_null, num_subsamples, name + where)
        own = getattr(estimator, "warnings", lambda x, y: ())(x, y)
        objections = [*_of_labels(y), *([of_features] if constant else ()), *_of_copies(hashes, y), *own, *_of_record(record)]
        records[name] = record | {"warnings": "; ".join(objections) or None}
    return records


def _distinct(y: Labels | Array) -> bool:
    return isinstance(y, Labels) and y.distinct


def _record(
    estimate: Estimate,
    nulls: Float[np.ndarray, " nulls"],
    halves: Float[np.ndarray, " subsamples"],
    num_null: int,
    num_subsamples: int,
    what: str,
) -> Record:
    """What `assess` returns, but the warnings."""
    record = describe(estimate, what)
    if not (np.isfinite(nulls).all() and np.isfinite(halves).all()):
        raise ValueError(f"{what}: the estimator gave numbers that are not finite on shuffles or halves; use more samples")
    value, margin = record["information"], spread(halves) if num_subsamples else None
    record |= {
        "null": float(np.mean(nulls)) if num_null else None,
        "null_upper": float(np.max(nulls)) if num_null else None,
        "p_value": float(1 + np.sum(nulls >= value)) / (1 + num_null) if num_null else None,
        "interval_lower": None if margin is None else value - margin,
        "interval_upper": None if margin is None else value + margin,
        "extrapolated": float(2 * value - np.mean(halves)) if num_subsamples else None,
        "subsamples": tuple(float(half) for half in halves) if num_subsamples else None,
    }
    return record


def describe(estimate: Estimate, what: str = "x") -> Record:
    """An estimate as plain numbers; bounds and ceilings that are infinite, for not known, as `None`."""
    value = float(estimate.value)
    others = {name: float(getattr(estimate, name)) for name in ("lower", "upper", "ceiling")}
    if not np.isfinite(value) or np.isnan(list(others.values())).any():
        raise ValueError(
            f"{what}: the estimator gave {value} with {others}, which is not finite; the sample may be too small or the "
            "features too large for their precision: use more samples or rescale them"
        )
    known = {name: number if np.isfinite(number) else None for name, number in others.items()}
    return {"information": value, **known, "saturated": bool(estimate.saturated)}


def spread(halves: ArrayLike, among: int = 1) -> float:
    """Half the width of a 95 % interval (Student's t), from estimates on random halves of the sample.

    Of `among` such intervals all hold together with at least 95 % (Bonferroni).

    Over subsets of m of n samples a mean varies by σ² (1/m - 1/n), on n samples by σ²/n: for halves the same. It covers the
    sampling spread alone, not an estimator's bias.
    """
    from scipy.special import stdtrit  # takes long to import

    halves = np.asarray(halves)
    return float(stdtrit(len(halves) - 1, 1 - 0.025 / among) * np.std(halves, ddof=1))


def within_null(record: Record, variable: str = "label") -> bool:
    """Whether the value does not exceed the largest of its null; `False` where one of them was not measured."""
    value, null = record.get(f"{variable}_information"), record.get(f"{variable}_null_upper")
    return value is not None and null is not None and value <= null


def few_per_class(labels: ArrayLike) -> dict[int, int]:
    """Classes with fewer than 20 samples, and how many they have: too few for class-conditional estimates to be trusted."""
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    return {int(c): int(k) for c, k in zip(classes, counts, strict=True) if k < _MIN_PER_CLASS}


@partial(jax.jit, static_argnames=("num_null", "num_subsamples"))
def _measure(
    estimator: Any, features: Float[Array, "n d"], ys: Sequence[Labels | Array], key: Array, num_null: int, num_subsamples: int
) -> list[tuple[Estimate, Float[Array, " nulls"], Float[Array, " subsamples"]]]:
    """Of each y, whose shuffles and halves are of the same samples: what depends on the features alone is computed once."""
    x, n = held(estimator, features), len(features)
    null_key, half_key, own_key = jax.random.split(key, 3)

    def shuffled(y: Labels | Array, order: Array) -> Labels | Array:
        if not isinstance(y, Labels):
            return y[order]
        return y if y.distinct else replace(y, values=y.values[order])

    def reordered(order: Array) -> list[Estimate]:
        return together(estimator, x, [shuffled(y, order) for y in ys], own_key)

    def halved(key: Array) -> list[Array]:
        half = jax.random.permutation(key, n)[: n // 2]
        return [estimate.value for estimate in together(estimator, x[half], [y[half] for y in ys], own_key)]

    # The values and their shuffles run together, mapped over y alone.
    orders = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(null_key, num_null))
    at_once = max(1, _AT_ONCE // (512 * n))
    orders = jnp.concatenate([jnp.arange(n)[None], orders])
    if num_null == 0:
        estimates = jax.tree.map(lambda leaf: leaf[None], reordered(orders[0]))
    elif num_null < at_once:
        estimates = jax.vmap(reordered)(orders)
    else:
        estimates = jax.lax.map(reordered, orders, batch_size=at_once)
    keys = jax.random.split(half_key, num_subsamples)
    halves = jax.lax.map(halved, keys) if num_subsamples else [jnp.zeros(0)] * len(ys)
    return [
        (jax.tree.map(lambda leaf: leaf[0], of_y), of_y.value[1:], of_halves)
        for of_y, of_halves in zip(estimates, halves, strict=True)
    ]


def _of_labels(y: Labels | Array) -> list[str]:
    """What the labels give to object to."""
    found = []
    if isinstance(y, Labels) and not y.distinct and (few := few_per_class(y.values)):
        found.append(f"{len(few)} of {y.num_classes} classes have fewer than {_MIN_PER_CLASS} samples")
    if isinstance(y, Labels) and y.num_classes == 1:
        found.append("one class only")
    return found


def _of_copies(hashes: Sequence[int], y: Labels | Array) -> list[str]:
    """What samples of equal features give to object to."""
    share = _copied(hashes, np.asarray(y.values if isinstance(y, Labels) else y))
    if share <= 0.1:
        return []
    return [f"{share:.0%} of the samples are copies of others, y included; if drawn twice, null and interval do not hold"]


def _copied(hashes: Sequence[int], y: np.ndarray) -> float:
    """The share of samples that repeat another one, x and y; 0 where samples of equal x differ in y, as discrete data do."""
    of_x: dict[int, int] = {}
    pairs = set()
    for row, other in zip(hashes, y, strict=True):
        both = (row, hash(other.tobytes()))
        if of_x.setdefault(*both) != both[1]:
            return 0.0
        pairs.add(both)
    return 1 - len(pairs) / len(hashes)


def _of_record(record: Record) -> list[str]:
    """What the numbers give to object to."""
    found = []
    value, extrapolated, null, p_value = (record[key] for key in ("information", "extrapolated", "null_upper", "p_value"))
    if record["saturated"]:
        found.append("saturated: all there is to know of y, or, if the null is near it too, too few samples")
    if null is not None and value <= null:
        found.append(f"not above the null (p = {p_value:.2g})")
    if extrapolated is not None:
        margin = record["interval_upper"] - value
        if abs(extrapolated - value) > max(margin, 0.05 * abs(value)):
            found.append("depends on the sample's size beyond its interval")
    if record["lower"] is None or record["upper"] is None:
        found.append("no interval of the estimator's own: ties, or classes too small")
    return found
