"""Matrix-based Rényi information: entropies of the eigenvalues of kernel matrices, with no density in between.

Sanchez Giraldo, Rao and Principe 2015, "Measures of Entropy from Data Using Infinitely Divisible Kernels"
(arXiv:1211.2459); for networks Wickstrøm et al. 2019 (arXiv:1909.11396); several kernels at once Yu et al. 2019
(arXiv:1808.07912).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ipjax.estimators.base import Estimate, Labels, check_positive, pytree_settings
from ipjax.estimators.kde import Distances, by_rows, noise_variance, squared_distances

Entropies = tuple[Float[Array, "3"], Float[Array, " n"]]
Kernel = Callable[[Int[Array, " m"]], Float[Array, "m n"]]  # some rows of a kernel matrix, 1 on its diagonal

_NEAR_1 = 1e-3  # orders whose power sums round too much; their entropies differ from the limit by as little
_MOST_SAMPLES = 4096  # for eigenvalues: three n x n matrices are held and decomposed


@pytree_settings
class Renyi:
    """S(A) + S(B) - S(A, B) with S(A) = ln(tr A^α) / (1 - α) of the kernel matrices A = K_x / n, B = K_y / n, and
    A, B = K_x ∘ K_y / n.

    K_x is the Gaussian kernel exp(-|x_i - x_j|² / 2σ²), σ² = `width` x median squared distance; K_y is 1 for equal labels and 0
    otherwise, or of the same rule for a floating y. With every sample its own label the value is S(A), which lies
    between 0 (all samples alike) and ln n (none like another).

    A convolutional layer: flattened it has Wickstrøm's tensor kernel, the Gaussian kernel of the distance between whole feature
    maps. Called directly with `x` [n, *space, channels], each channel has a kernel and a width of its own and K_x
    is their product (Yu et al.); with many channels it tends to the identity, which saturates.

    **Settings:**

    - `alpha`: order, above 0. 2 needs no eigenvalues: S = -ln mean K². 1 (to .001) is the limit, the von Neumann entropy.
        Others than 2 are refused above 4,096 samples. Below 1 rounding errors of small eigenvalues count: use double precision.
    - `width`: the kernel's; small widths tell more apart, large ones need fewer samples.

    It is no estimate of Shannon's information, whatever α: nothing converges to I(X; Y), and it depends on `width`. Compare
    layers at one `width`. `lower` and `upper`: 95 % interval of the sampling spread, to first order in 1/√n, the width taken as
    given. Ceiling: the entropy S(B) of the labels (ln n where every sample is its own); ln n for floating y.
    Independent labels give about (classes - 1) (e^S(A) - 1) / n at α = 2: large where the kernel is narrow.
    Cost: n² d in blocks of rows at α = 2; else n³ and three n x n matrices.
    """

    alpha: float = field(default=2.0, metadata={"static": True})
    width: float | Float[Array, ""] = 0.5
    pairwise: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha: expected a finite number above 0, got {self.alpha}")
        check_positive(width=self.width)

    def __call__(self, x: Float[Array, "n *shape"], y: Labels | Array, key: Array) -> Estimate:
        return self.together(x, [y], key)[0]

    def together(self, x: Float[Array, "n *shape"] | Distances, ys: Sequence[Labels | Array], key: Array) -> list[Estimate]:
        """The estimate for each of several y, whose kernel of x is computed once."""
        del key
        n = len(x)
        if self.alpha != 2 and n > _MOST_SAMPLES:
            raise ValueError(
                f"Renyi: expected at most {_MOST_SAMPLES} samples for eigenvalues (alpha = {self.alpha}), got {n}; "
                "use alpha=2, which needs none, or fewer samples"
            )
        of_x = gaussian_kernel(x, self.width)
        of_ys = [label_kernel(y) if isinstance(y, Labels) else gaussian_kernel(y, self.width) for y in ys]
        found = _by_squares(of_x, of_ys, n) if self.alpha == 2 else _by_eigenvalues(of_x, of_ys, n, self.alpha)
        estimates = []
        for y, ((s_x, s_y, s_xy), influence) in zip(ys, found, strict=True):
            value = s_x + s_y - s_xy
            margin = 1.96 * jnp.std(influence) / math.sqrt(n)
            ceiling = s_y if isinstance(y, Labels) else jnp.full_like(value, math.log(n))
            estimates.append(Estimate(value, value - margin, value + margin, ceiling))
        return estimates


def gaussian_kernel(x: Float[Array, "n *shape"] | Distances, width: float | Array) -> Kernel:
    """exp(-|x_i - x_j|² / 2σ²), σ² = width x median squared distance; with a last axis of channels, the product of theirs."""
    if isinstance(x, Distances) or x.ndim == 2:
        variance = noise_variance(x, width)
        return lambda rows: jnp.exp(-squared_distances(x, rows) / (2 * variance))
    channels = x.reshape(len(x), -1, x.shape[-1])
    variances = jax.lax.map(lambda channel: noise_variance(channel, width), jnp.moveaxis(channels, -1, 0))
    scaled = (channels / jnp.sqrt(variances)).reshape(len(x), -1)
    return lambda rows: jnp.exp(-squared_distances(scaled, rows) / 2)


def label_kernel(y: Labels) -> Kernel:
    """1 for equal labels, 0 for different ones."""
    return lambda rows: (y.values[rows][:, None] == y.values[None, :]) * 1.0


def _by_squares(of_x: Kernel, of_ys: Sequence[Kernel], n: int) -> list[Entropies]:
    """S(A), S(B) and S(A, B) of order 2 for each B, and how the information changes with the weight of each sample."""

    def rows(index: Array) -> tuple[Array]:
        a, bs = of_x(index) ** 2, [of_y(index) ** 2 for of_y in of_ys]
        return (jnp.stack([jnp.mean(kernel, axis=1) for kernel in (a, *bs, *(a * b for b in bs))]),)

    (each,) = by_rows(rows, n)  # tr A² = mean K²
    squares = jnp.mean(each, axis=1)
    influence, entropies = -2 * each / squares[:, None], -jnp.log(squares)
    count = len(of_ys)
    return [
        (entropies[np.array([0, i, i + count])], influence[0] + influence[i] - influence[i + count])
        for i in range(1, count + 1)
    ]


def _by_eigenvalues(of_x: Kernel, of_ys: Sequence[Kernel], n: int, alpha: float) -> list[Entropies]:
    """The same of any order."""
    a = of_x(jnp.arange(n)) / n
    s_x, of_a = spectral_entropy(a, alpha)
    found = []
    for of_y in of_ys:
        b = of_y(jnp.arange(n)) / n
        (s_y, of_b), (s_xy, of_both) = (spectral_entropy(kernel, alpha) for kernel in (b, n * a * b))
        found.append((jnp.stack([s_x, s_y, s_xy]), of_a + of_b - of_both))
    return found


def spectral_entropy(a: Float[Array, "n n"], alpha: float) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """S(A) = ln(tr A^α) / (1 - α), or -tr A ln A at α = 1, and its derivatives n ∂S/∂w in weights w of the samples."""
    eigenvalues, vectors = jnp.linalg.eigh(a)
    positive = eigenvalues > jnp.finfo(a.dtype).eps  # the others are rounding errors
    log = jnp.log(jnp.where(positive, eigenvalues, 1))
    if abs(alpha - 1) < _NEAR_1:
        terms = jnp.where(positive, -eigenvalues * log, 0)
        slopes = terms - jnp.where(positive, eigenvalues, 0)
        return jnp.sum(terms), len(a) * vectors**2 @ slopes
    powers = jnp.where(positive, jnp.exp(alpha * log), 0)
    trace = jnp.sum(powers)
    return jnp.log(trace) / (1 - alpha), alpha / (1 - alpha) * len(a) * vectors**2 @ (powers / trace)
