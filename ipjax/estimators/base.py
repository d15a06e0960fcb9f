"""What every mutual-information estimator shares: the result, checks of the data, and the public entry.

An estimator is a frozen dataclass of settings, a pytree whose continuous settings are leaves, with one method:
`estimator(x, y, key) -> Estimate` for `x` [n, dx] and `y` `Labels` or, where the estimator allows it, an array [n, dy].
It is jit- and vmap-able and does not look at values. Two things are optional: `estimator.together(x, ys, key)`, the estimates
for several y, where what depends on x alone is to be computed once; and `pairwise = True` where x may come as
`ipjax.estimators.kde.Distances`, which several questions share. I(X; C_l) of a layer's features is asked for with every
sample as a label of its own, `Labels.unique(n)`: what the features tell about which input it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

_FAR = 100  # times its own extent
SATURATED = 0.95  # share of the ceiling from which an estimate counts as saturated
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def pytree_settings(cls: type[_T]) -> type[_T]:
    """A frozen dataclass as a pytree; fields with the metadata `static` belong to its structure.

    As `jax.tree_util.register_dataclass`, but two classes of like fields never share a structure (with that one they do in jax
    0.10, and `jax.jit` then runs the code compiled for the one with the settings of the other).
    """
    dataclass(frozen=True)(cls)
    static = tuple(f.name for f in fields(cls) if f.metadata.get("static"))  # pyright: ignore[reportArgumentType]
    leaves = tuple(f.name for f in fields(cls) if not f.metadata.get("static"))  # pyright: ignore[reportArgumentType]

    def flatten(self: _T) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        return tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in leaves), tuple(getattr(self, n) for n in static)

    def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> _T:
        return cls(**dict(zip(static, aux, strict=True)), **dict(zip(leaves, children, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labels:
    """Integer labels `values` [n] from 0 to `num_classes` - 1.

    `distinct` says that all differ: every sample is a class of its own. As many classes as samples do not say so: half a sample
    keeps the number of classes of the whole.
    """

    values: Int[Array, " n"]
    num_classes: int = field(metadata={"static": True})
    distinct: bool = field(default=False, metadata={"static": True})

    @staticmethod
    def unique(n: int) -> Labels:
        """Every sample its own class."""
        return Labels(jnp.arange(n), n, distinct=True)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Array) -> Labels:
        """Of some samples, each at most once."""
        return replace(self, values=self.values[index])

    def counts(self) -> Float[Array, " classes"]:
        """How many samples each class has."""
        return jnp.zeros(self.num_classes).at[self.values].add(1.0)

    def entropy(self) -> Float[Array, ""]:
        """Plug-in entropy in nats."""
        return plug_in_entropy(self.counts())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """A mutual information in nats, never clipped.

    **Attributes:**

    - `value`: the estimate.
    - `lower`, `upper`: what the estimator can say around it; its docstring tells what they are (bounds or an interval).
    - `ceiling`: the largest value that the estimator can return on this sample (a few may pass it, as their docstrings say).
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    ceiling: Float[Array, ""]

    @property
    def saturated(self) -> Array:
        """Whether the value lies within 5 % of the ceiling: all that there is to know of y, or a sample too small to tell."""
        return self.value >= SATURATED * self.ceiling


class Estimator(Protocol):
    """See this module's docstring."""

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate: ...


def mutual_information(x: ArrayLike, y: ArrayLike | Labels, estimator: Estimator, *, key: Array | None = None) -> Estimate:
    """Mutual information between features and labels, or between two sets of features, in nats.

    **Arguments:**

    - `x`: `[n, dx]` (or `[n]`), floating.
    - `y`: `[n]` integer labels, or `[n, dy]` floating, for estimators that take it. Inside `jax.jit` labels come as `Labels`,
        which carry the number of classes.
    - `estimator`: one of `ipjax.estimators`.
    - `key`: of the estimator's random choices (folds); `None` for a fixed one.

    Columns of `x` or of a floating `y` that do not vary carry no information and are set to zero, which no estimator sees.
    (Dropped, they would give layers of one width several shapes, each compiled anew.)

    Inside `jax.jit` nothing is checked or scaled.

    **Raises:** `ValueError` for fewer than 2 samples, different lengths, values that are not finite, labels that are
    negative or not integers, or features of which no column varies.
    """
    x, y = checked(x, y)
    return estimate(estimator, x, y, jax.random.key(0) if key is None else key)


def together(estimator: Any, x: Any, ys: Sequence[Labels | Array], key: Array) -> list[Estimate]:
    """The estimate for each of several y, at once where the estimator can."""
    return estimator.together(x, ys, key) if hasattr(estimator, "together") else [estimator(x, y, key) for y in ys]


def alike(a: Any, b: Any) -> bool:
    """Whether two estimators are of one kind and have the same settings."""
    (of_a, kind_a), (of_b, kind_b) = jax.tree.flatten(a), jax.tree.flatten(b)
    return kind_a == kind_b and all(map(np.array_equal, of_a, of_b))


@jax.jit
def estimate(estimator: Any, x: Array, y: Labels | Array, key: Array) -> Estimate:
    """`estimator(x, y, key)`, compiled."""
    return estimator(x, y, key)


def checked(x: ArrayLike, y: ArrayLike | Labels, *, what: str = "x") -> tuple[Array, Labels | Array]:
    """Both sides as arrays that an estimator takes; raises what `mutual_information` raises."""
    x = _checked_features(x, what)
    if isinstance(y, Labels):
        y = _checked_own(y)
    elif np.ndim(y) == 2 and not isinstance(y, Tracer) and jnp.issubdtype(np.asarray(y).dtype, jnp.floating):
        y = _checked_features(y, "y")
    else:
        y = checked_labels(y)
    if len(x) != len(y):
        raise ValueError(f"samples: expected as many of {what} as of y, got {len(x)} and {len(y)}")
    return x, y


def _checked_own(y: Labels) -> Labels:
    if isinstance(y.values, Tracer):
        return y
    values = np.asarray(y.values)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"Labels: expected integers [samples], got {values.dtype} of shape {list(values.shape)}")
    if len(values) and not 0 <= values.min() <= values.max() < y.num_classes:
        raise ValueError(f"Labels: expected values from 0 to {y.num_classes - 1}, got {values.min()} to {values.max()}")
    distinct = len(np.unique(values)) == len(values)
    if y.distinct and not distinct:
        raise ValueError("Labels: distinct says that all labels differ, but some are equal; leave it out")
    return replace(y, distinct=distinct)


def check_positive(**values: Any) -> None:
    """Raises `ValueError` where a number (or one of an array, for `jax.vmap`) that is known is not finite and above 0."""
    for name, value in values.items():
        known = isinstance(value, int | float | np.number | np.ndarray | Array) and not isinstance(value, Tracer)
        if known and not np.all((np.asarray(value) > 0) & (np.asarray(value) < np.inf)):
            raise ValueError(f"{name}: expected a finite number above 0, got {value}")


def varying(features: np.ndarray) -> np.ndarray:
    """Mask `[d]` of the columns that vary."""
    return np.ptp(features, axis=0) > 0


def _checked_features(features: ArrayLike, what: str) -> Array:
    if isinstance(features, Tracer):
        return features[:, None] if features.ndim == 1 else features
    if isinstance(features, np.ma.MaskedArray):
        raise ValueError(f"{what}: expected plain features, got a masked array; leave out the samples that are masked")
    array = np.asarray(features)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{what}: expected [samples, features], got shape {list(array.shape)}; apply a readout first")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{what}: expected floating features, got {array.dtype}")
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    if len(array) < 2:
        raise ValueError(f"{what}: expected at least 2 samples, got {len(array)}")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what}: expected finite features, found NaN or infinity in {(~finite).sum()} of {len(array)} samples, "
            f"first {np.flatnonzero(~finite)[:5].tolist()}"
        )
    keep = varying(array)
    if not keep.any():
        raise ValueError(
            f"{what}: none of the {array.shape[1]} features varies over the {len(array)} samples, so there is no scale to "
            "measure information on; leave this layer out"
        )
    # One offset and scale for all, on which no estimator depends, so that single precision suffices; both round binary numbers,
    # so that what ties before ties after. In blocks of rows: a large layer in double precision outgrows the estimators.
    mean = np.asarray(np.mean(array, axis=0, dtype=np.float64))
    least, most = np.min(array, axis=0).astype(np.float64), np.max(array, axis=0).astype(np.float64)
    offset = _rounded(np.mean(mean[keep]), np.max(most[keep]) / 2 - np.min(least[keep]) / 2)
    far = keep & (np.abs(mean - offset) / _FAR > most - least)  # variation that would be rounded away: an offset of their own
    offset = np.where(far, _rounded(mean, np.where(keep, most / 2 - least / 2, 1)), offset)
    scale = np.exp2(np.ceil(np.log2(np.max(np.maximum(offset - least, most - offset)[keep]))))
    scaled = np.empty(array.shape, jnp.result_type(float))
    for start in range(0, len(array), 1024):
        block = slice(start, start + 1024)
        scaled[block] = np.where(keep, (array[block] - offset) / scale, 0)
    return jnp.asarray(scaled)


def _rounded(values: ArrayLike, extent: ArrayLike) -> np.ndarray:
    """To multiples of the power of 2 next below the extent."""
    step = np.exp2(np.floor(np.log2(extent)))
    return np.rint(values / step) * step


def checked_labels(y: ArrayLike, what: str = "y") -> Labels:
    """Integer labels [n], renumbered from 0 without gaps."""
    if isinstance(y, Tracer):
        raise ValueError(f"{what}: inside jax.jit expected ipjax.estimators.Labels(values, num_classes), got a traced array")
    array = np.asarray(y)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{what}: expected integer labels [samples] or floating features [samples, features] (y[:, None] for one), "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    if len(array) and array.min() < 0:
        raise ValueError(f"{what}: expected labels from 0 on, got {array.min()}")
    classes, values = np.unique(array, return_inverse=True)
    return Labels(jnp.asarray(values, jnp.int32), len(classes), distinct=len(classes) == len(array))


def some_samples(n: int, most: int) -> np.ndarray:
    """All of n indices, or `most` drawn by a fixed seed, in order. (Evenly spaced ones could follow the labels.)"""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def plug_in_entropy(counts: Float[Array, " cells"]) -> Float[Array, ""]:
    """-Σ p ln p of the relative frequencies, in nats."""
    p = counts / jnp.sum(counts)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0))
