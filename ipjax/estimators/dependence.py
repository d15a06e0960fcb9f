"""Measures of dependence that are no information: HSIC and CKA, plain numbers without a unit in nats.

HSIC (Gretton et al. 2005, "Measuring Statistical Dependence with Hilbert-Schmidt Norms"), unbiased by Song et al. 2012
("Feature Selection via Dependence Maximization"); CKA (Kornblith et al. 2019, arXiv:1905.00414), HSIC as a correlation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ipjax.estimators.base import Labels, check_positive, checked, pytree_settings
from ipjax.estimators.kde import by_rows, noise_variance, squared_distances

KernelName = Literal["linear", "gaussian"]
Gram = Callable[[Int[Array, " m"]], Float[Array, "m n"]]  # some rows of a kernel matrix

_COLUMNS = 512  # columns of the cross-covariance held at once


@pytree_settings
class HSIC:
    """Hilbert-Schmidt independence criterion: the squared norm of the covariance between the kernel's features of x and y.

    Called as `HSIC()(x, y)` with `x` [n, dx] and `y` [n, dy] floating or [n] integer labels; it returns one number. 0 for
    independent data (and, with the Gaussian kernel on both sides, only for them); without an upper limit and, with the linear
    kernel, in units of x² y²: compare values of one pair of scales only, or take `CKA`.

    **Settings:**

    - `kernel`: `"linear"`, |cov(x, y)|² (biased: of the covariance divided by n - 1), or `"gaussian"`,
        exp(-|x_i - x_j|² / 2σ²), σ² = `width` x median squared distance. Labels always are one-hot under the linear one.
    - `unbiased`: Song's U-statistic, 0 on average for independent data and so at times below 0; needs 4 samples. Otherwise
        Gretton's tr(KHLH) / (n - 1)², never below 0 and too high by O(1/n).
    - `width`: of the Gaussian kernel.

    Cost: linear n dx dy in blocks of columns, or n² (dx + dy) in blocks of rows where that is less; Gaussian the latter.

    **Raises:** `ValueError` as `mutual_information` does, and for fewer than 4 samples if unbiased. Labels of one class give 0.
    """

    kernel: KernelName = field(default="linear", metadata={"static": True})
    unbiased: bool = field(default=True, metadata={"static": True})
    width: float | Float[Array, ""] = 1.0

    def __post_init__(self):
        _check_settings(self.kernel, self.width)

    def __call__(self, x: ArrayLike, y: ArrayLike | Labels) -> Float[Array, ""]:
        sides = [_in_own_units(*pair) for pair in zip((x, y), _checked(x, y, self.unbiased), strict=True)]
        value = _hsic_of(self, *sides)
        if not isinstance(value, Tracer) and not jnp.isfinite(value):
            raise ValueError("HSIC: the features are too large for their precision; rescale them, or use CKA")
        return value


@pytree_settings
class CKA:
    """Centred kernel alignment: HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)), how alike two representations of one sample are.

    Called as `CKA()(x, y)`, as `HSIC`, whose settings it shares. 1 for equal representations, also after a rotation and a
    scaling of all features by one factor (not after scaling them apart); 0 for independent ones. It says nothing about bits.

    Biased it is in [0, 1] and too high where n is not much larger than the number of features: two independent sets of more
    features than samples give nearly 1. Unbiased it is near 0 there, at times below.

    **Raises:** `ValueError` as `HSIC` does, and where the HSIC of a side with itself is not above 0: labels of one class, or
    (unbiased) too few samples.
    """

    kernel: KernelName = field(default="linear", metadata={"static": True})
    unbiased: bool = field(default=True, metadata={"static": True})
    width: float | Float[Array, ""] = 1.0

    def __post_init__(self):
        _check_settings(self.kernel, self.width)

    def __call__(self, x: ArrayLike, y: ArrayLike | Labels) -> Float[Array, ""]:
        value, of_x, of_y = _cka_of(self, *_checked(x, y, self.unbiased))
        if not isinstance(value, Tracer) and not (of_x > 0 and of_y > 0):
            raise ValueError(
                f"CKA: expected both sides to depend on themselves, got HSIC {of_x:.3g} of x and {of_y:.3g} of y with itself; "
                "use more samples, a larger width, or unbiased=False"
            )
        return value


@jax.jit
def _hsic_of(settings: HSIC, x: Array, y: Labels | Array) -> Float[Array, ""]:
    return _between(_side(x, settings), _side(y, settings), settings)


@jax.jit
def _cka_of(settings: CKA, x: Array, y: Labels | Array) -> tuple[Array, Array, Array]:
    """CKA, and HSIC of either side with itself."""
    a, b = _side(x, settings), _side(y, settings)
    of_a, of_b = _between(a, a, settings), _between(b, b, settings)
    return _between(a, b, settings) / jnp.sqrt(of_a * of_b), of_a, of_b


def _side(values: Labels | Array, settings: HSIC | CKA) -> tuple[Float[Array, "n d"], KernelName]:
    if isinstance(values, Labels):
        return jax.nn.one_hot(values.values, values.num_classes), "linear"
    return values, settings.kernel


def _between(a: tuple[Array, KernelName], b: tuple[Array, KernelName], settings: HSIC | CKA) -> Float[Array, ""]:
    (x, kernel_x), (y, kernel_y) = a, b
    (n, dx), dy = x.shape, y.shape[1]
    if kernel_x == kernel_y == "linear" and dx * dy <= n * (dx + dy):
        return linear_hsic(x, y, settings.unbiased)
    return hsic(_gram(x, kernel_x, settings.width), _gram(y, kernel_y, settings.width), n, settings.unbiased)


def _gram(x: Float[Array, "n d"], kernel: KernelName, width: float | Array) -> Gram:
    if kernel == "linear":
        centred = x - jnp.mean(x, axis=0)
        return lambda rows: jnp.matmul(centred[rows], centred.T, precision=jax.lax.Precision.HIGHEST)
    variance = noise_variance(x, width)
    typical = jnp.exp(-0.5 / width)  # at the median distance; HSIC does not depend on constants, and rounding less without
    return lambda rows: jnp.exp(-squared_distances(x, rows) / (2 * variance)) - typical


def hsic(k: Gram, l: Gram, n: int, unbiased: bool) -> Float[Array, ""]:  # noqa: E741 (the letters of the papers)
    """HSIC of two kernel matrices that are given by rows."""

    def rows(index: Array) -> tuple[Array]:
        a, b = k(index), l(index)
        if unbiased:
            other = index[:, None] != jnp.arange(n)[None, :]
            a, b = jnp.where(other, a, 0), jnp.where(other, b, 0)
        return (jnp.stack([jnp.sum(a * b, axis=1), jnp.sum(a, axis=1), jnp.sum(b, axis=1)]),)

    ((products, a, b),) = by_rows(rows, n)
    trace, sums, cross = jnp.sum(products), jnp.sum(a) * jnp.sum(b), jnp.sum(a * b)
    m = float(n)  # the products below are beyond 32-bit integers from 46,341 samples on
    if unbiased:  # tr K̃L̃ + 1ᵀK̃1 1ᵀL̃1 / ((n-1)(n-2)) - 2/(n-2) 1ᵀK̃L̃1, diagonals set to 0
        return (trace + sums / ((m - 1) * (m - 2)) - 2 / (m - 2) * cross) / (m * (m - 3))
    return (trace + sums / m**2 - 2 / m * cross) / (m - 1) ** 2  # tr KHLH


def linear_hsic(x: Float[Array, "n dx"], y: Float[Array, "n dy"], unbiased: bool) -> Float[Array, ""]:
    """The same for linear kernels, from features: tr KHLH = |XᵀY|² of centred features."""
    n = float(len(x))
    x, y = x - jnp.mean(x, axis=0), y - jnp.mean(y, axis=0)
    norm = cross_norm(x, y)
    if not unbiased:
        return norm / (n - 1) ** 2
    k, l = jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1)  # noqa: E741
    # Rows of K without the diagonal sum up to -k_i, since the features sum up to 0.
    return (norm + jnp.sum(k) * jnp.sum(l) / ((n - 1) * (n - 2)) - n / (n - 2) * jnp.sum(k * l)) / (n * (n - 3))


def cross_norm(x: Float[Array, "n dx"], y: Float[Array, "n dy"]) -> Float[Array, ""]:
    """|XᵀY|², a block of columns of x at a time."""
    blocks = math.ceil(x.shape[1] / _COLUMNS)
    size = math.ceil(x.shape[1] / blocks)
    columns = jnp.pad(x, ((0, 0), (0, blocks * size - x.shape[1]))).T.reshape(blocks, size, len(x))
    precise = jax.lax.Precision.HIGHEST
    return jnp.sum(jax.lax.map(lambda block: jnp.sum(jnp.matmul(block, y, precision=precise) ** 2), columns))


def _check_settings(kernel: str, width: float | Array) -> None:
    if kernel not in ("linear", "gaussian"):
        raise ValueError(f'kernel: expected "linear" or "gaussian", got {kernel!r}')
    check_positive(width=width)


def _checked(x: ArrayLike, y: ArrayLike | Labels, unbiased: bool) -> tuple[Array, Labels | Array]:
    if isinstance(y, Tracer) and y.ndim == 2:  # which `checked` takes for labels
        x, _ = checked(x, Labels.unique(len(y)))
    else:
        x, y = checked(x, y)
    if unbiased and len(x) < 4:
        raise ValueError(f"unbiased: expected at least 4 samples, got {len(x)}; use more, or unbiased=False")
    return x, y


def _in_own_units(given: ArrayLike | Labels, side: Labels | Array) -> Labels | Array:
    """Checked features before they were scaled."""
    if isinstance(side, Labels | Tracer):
        return side
    features = np.asarray(given).reshape(len(side), -1)
    if features.dtype != np.float32:
        features = features.astype(np.float64)
    centred = np.empty(features.shape, side.dtype)
    np.subtract(features, np.mean(features, axis=0, dtype=np.float64), out=centred, dtype=np.float64, casting="same_kind")
    return jnp.asarray(centred)
