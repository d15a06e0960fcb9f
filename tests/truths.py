"""Distributions whose mutual information is known, in nats: samplers that carry their truth, for the tests and the benchmarks.

The continuous ones are those of Czyż et al. 2023, "Beyond Normal" (arXiv:2306.11078), and of Kraskov et al. 2004
(arXiv:cond-mat/0305641); those of labels are integrals in one dimension, by quadrature to 1e-8; mixtures of atoms and
densities are after Gao et al. 2017 (arXiv:1709.06212).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import integrate, special, stats

Sample = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """A joint distribution and its mutual information.

    **Attributes:**

    - `name`: what it is.
    - `information`: I(X; Y) in nats.
    - `sample`: `(n, seed) -> (x, y)` with x float32 [n, dx] and y float32 [n, dy], or integer labels [n].
    """

    name: str
    information: float
    sample: Callable[[int, int], Sample]


def pairs(d: int, correlation: float, count: int | None = None) -> np.ndarray:
    """Covariance of unit normals x [d] and y [d], of which the first `count` (or all) coordinates correlate in pairs."""
    covariance = np.eye(2 * d)
    for i in range(d if count is None else count):
        covariance[i, d + i] = covariance[d + i, i] = correlation
    return covariance


def dense(d: int, correlation: float) -> np.ndarray:
    """Covariance of unit normals x [d] and y [d], every two of which correlate."""
    return correlation + (1 - correlation) * np.eye(2 * d)


def normal_information(covariance: np.ndarray) -> float:
    """½ ln det Σx det Σy / det Σ of jointly normal x and y of equally many features."""
    d = len(covariance) // 2
    of_x, of_y, joint = (np.linalg.slogdet(part)[1] for part in (covariance[:d, :d], covariance[d:, d:], covariance))
    return float(of_x + of_y - joint) / 2


def normal(name: str, covariance: np.ndarray) -> Truth:
    """x and y jointly normal."""
    factor = np.linalg.cholesky(covariance)

    def sample(n: int, seed: int) -> Sample:
        return _halves(np.random.default_rng(seed).normal(size=(n, len(covariance))) @ factor.T)

    return Truth(name, normal_information(covariance), sample)


def student(name: str, dispersion: np.ndarray, dof: int) -> Truth:
    """x and y jointly Student t: normals divided by one common √(χ²/dof), so dependent even where they do not correlate.

    The entropies of Arellano-Valle, Contreras-Reyes and Genton 2013, as Czyż et al. correct them.
    """
    factor, d = np.linalg.cholesky(dispersion), len(dispersion) // 2

    def term(degrees: int) -> float:
        return float(special.gammaln(degrees / 2) - degrees / 2 * special.digamma(degrees / 2))

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        normals = rng.normal(size=(n, 2 * d)) @ factor.T
        return _halves(normals / np.sqrt(rng.chisquare(dof, size=(n, 1)) / dof))

    tails = term(dof) + term(dof + 2 * d) - 2 * term(dof + d)
    return Truth(name, normal_information(dispersion) + tails, sample)


def transformed(truth: Truth, name: str, of_x: Callable, of_y: Callable | None = None) -> Truth:
    """Every coordinate through a strictly monotone function, which leaves the information."""

    def sample(n: int, seed: int) -> Sample:
        x, y = truth.sample(n, seed)
        return single(of_x(x)), y if of_y is None else single(of_y(y))

    return Truth(f"{name} of {truth.name}", truth.information, sample)


def half_cube(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.abs(x) ** 1.5


def wiggly_x(x: np.ndarray) -> np.ndarray:
    return x + 0.4 * np.sin(x) + 0.2 * np.sin(1.7 * x + 1) + 0.03 * np.sin(3.3 * x - 2.5)


def wiggly_y(y: np.ndarray) -> np.ndarray:
    return y - 0.4 * np.sin(0.4 * y) + 0.17 * np.sin(1.3 * y + 3.5) + 0.02 * np.sin(4.3 * y - 2.5)


def uniform_noise(half_width: float) -> Truth:
    """X uniform on [0, 1], Y = X + U, U uniform on ± `half_width`."""
    information = half_width - np.log(2 * half_width) if half_width <= 0.5 else 1 / (4 * half_width)

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        x = rng.uniform(size=(n, 1))
        return single(x), single(x + rng.uniform(-half_width, half_width, size=(n, 1)))

    return Truth(f"uniform noise ± {half_width}", float(information), sample)


def label_channel(num_classes: int, wrong: float) -> Truth:
    """Labels Y, equally many of each class, and X one-hot: Y, or with chance `wrong` another class."""
    entropy = special.entr(wrong) + special.entr(1 - wrong)

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.arange(n) % num_classes)
        other = (y + rng.integers(1, num_classes, size=n)) % num_classes
        return np.eye(num_classes, dtype=np.float32)[np.where(rng.uniform(size=n) < wrong, other, y)], y

    information = np.log(num_classes) - entropy - wrong * np.log(num_classes - 1)
    return Truth(f"label channel, {num_classes} classes, {wrong} wrong", float(information), sample)


def normal_classes(name: str, means: tuple[float, ...], scales: tuple[float, ...], shares: tuple[float, ...]) -> Truth:
    """Labels of the given shares, and x [n, 1] normal in each class."""
    classes: list[Any] = [stats.norm(mean, scale) for mean, scale in zip(means, scales, strict=True)]

    def surprise(x: float, c: int) -> float:
        log_each = np.array([each.logpdf(x) for each in classes])
        return float(np.exp(log_each[c]) * (log_each[c] - special.logsumexp(log_each, b=shares)))

    def within(c: int) -> float:
        reach = 10 * scales[c]
        return integrate.quad(surprise, means[c] - reach, means[c] + reach, args=(c,), limit=400, epsabs=1e-9)[0]

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        y = rng.choice(len(means), size=n, p=shares)
        return single(rng.normal(np.array(means)[y], np.array(scales)[y])[:, None]), y

    return Truth(name, float(sum(share * within(c) for c, share in enumerate(shares))), sample)


def rectified_classes(name: str, means: tuple[float, ...]) -> Truth:
    """x = max(0, a normal of unit variance around its class's mean): an atom at 0 and a density, as behind a ReLU."""
    share = 1 / len(means)

    def information(of_classes: np.ndarray) -> float:
        """Σ_c p_c q_c ln q_c / q of the classes' densities (or chances) q_c at one x."""
        return float(np.sum(share * special.rel_entr(of_classes, np.mean(of_classes))))

    def above(x: float) -> float:
        return information(stats.norm.pdf(x, np.array(means)))

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        y = rng.integers(len(means), size=n)
        return single(np.maximum(rng.normal(np.array(means)[y]), 0)[:, None]), y

    of_zero = information(stats.norm.cdf(-np.array(means)))
    return Truth(name, of_zero + integrate.quad(above, 0, max(means) + 10, limit=400, epsabs=1e-9)[0], sample)


def overlapping_classes(num_classes: int) -> Truth:
    """x uniform on [y, y + 2]: every x but those of the two ends belongs to two classes."""

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        y = rng.integers(num_classes, size=n)
        return single((y + rng.uniform(0, 2, size=n))[:, None]), y

    information = np.log(num_classes) - (num_classes - 1) / num_classes * np.log(2)
    return Truth(f"{num_classes} overlapping uniform classes", float(information), sample)


def zero_inflated(zeros: float) -> Truth:
    """x exponential, the label a Poisson count around x, or 0 with chance `zeros` whatever x is.

    The closed form in Gao et al. takes the two kinds of 0 apart, which the label does not; so this is quadrature.
    """
    counts = np.arange(60)

    def chances(x: float) -> np.ndarray:
        return (1 - zeros) * stats.poisson.pmf(counts, x) + zeros * (counts == 0)

    def conditional(x: float) -> float:
        return float(np.exp(-x) * np.sum(special.entr(chances(x))))

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        x = rng.exponential(size=n)
        y = rng.poisson(x) * (rng.uniform(size=n) >= zeros)
        return single(x[:, None]), y

    overall = (1 - zeros) * 0.5 ** (counts + 1.0) + zeros * (counts == 0)  # a Poisson of an exponential is geometric
    information = np.sum(special.entr(overall)) - integrate.quad(conditional, 0, 40, limit=400, epsabs=1e-9)[0]
    return Truth(f"zero-inflated Poisson, {zeros} zeros", float(information), sample)


def among_noise(truth: Truth, d: int) -> Truth:
    """x [n, 1] among d - 1 columns of unit normal noise, all rotated: what the label tells about x stays the same."""
    rotation = stats.ortho_group.rvs(d, random_state=0)

    def sample(n: int, seed: int) -> Sample:
        x, y = truth.sample(n, seed)
        noise = np.random.default_rng([seed, d]).normal(size=(n, d - 1))
        return single(np.concatenate([x, noise], axis=1) @ rotation), y

    return Truth(f"{truth.name}, d = {d}", truth.information, sample)


def independent_labels(d: int, num_classes: int) -> Truth:
    """Unit normal x [n, d], and labels that do not depend on them."""

    def sample(n: int, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        return single(rng.normal(size=(n, d))), rng.permutation(np.arange(n) % num_classes)

    return Truth(f"independent labels, d = {d}", 0.0, sample)


def mixture_information(
    points: np.ndarray, labels: np.ndarray, variance: float, draws: int = 20, seed: int = 0
) -> tuple[float, float]:
    """(I(C + sZ; Y), its standard error) of points C [n, d] and labels Y [n] taken as the whole distribution, s² = `variance`.

    The mean of ln p(c + sz | y) / p(c + sz) over `draws` of the noise around every point; p is the mixture of normals.
    """
    points = np.asarray(points, np.float64) / np.sqrt(variance)
    rng, local = np.random.default_rng(seed), []
    same = labels[:, None] == labels[None, :]
    for _ in range(draws):
        noisy = points + rng.normal(size=points.shape)
        squared = np.sum(noisy**2, axis=1)[:, None] + np.sum(points**2, axis=1)[None, :] - 2 * noisy @ points.T
        everyone = special.logsumexp(-squared / 2, axis=1) - np.log(len(points))
        within = special.logsumexp(np.where(same, -squared / 2, -np.inf), axis=1) - np.log(np.sum(same, axis=1))
        local.append(within - everyone)
    of_points = np.mean(local, axis=0)
    error = np.sqrt(np.sum(np.var(local, axis=0, ddof=1)) / draws) / len(points)  # the points are given, the noise varies
    return float(np.mean(of_points)), float(error)


def cells_information(correlation: float, num_bins: int) -> float:
    """I of a normal pair's cells, each side cut into `num_bins` of equal chance: what quantile binning leaves of the pair."""
    edges = np.clip(stats.norm.ppf(np.linspace(0, 1, num_bins + 1)), -9, 9)
    corners = np.stack(np.meshgrid(edges, edges, indexing="ij"), axis=-1)
    distribution: Any = stats.multivariate_normal(cov=pairs(1, correlation))  # pyright: ignore[reportArgumentType]
    below = distribution.cdf(corners)
    cells = np.diff(np.diff(below, axis=0), axis=1)
    return float(2 * np.log(num_bins) - np.sum(special.entr(np.maximum(cells, 0))))


def channel_information(d: int, noise: float) -> float:
    """I(C; C + sZ) of unit normal C [d] with s² = `noise` x the median squared distance of two of them: ½ d ln(1 + 1/s²)."""
    return float(d / 2 * np.log1p(1 / (noise * normal_distance(d))))


def normal_distance(d: int) -> float:
    """Median squared distance of two unit normals [d]."""
    return float(2 * stats.chi2.ppf(0.5, d))


def single(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


def _halves(xy: np.ndarray) -> Sample:
    d = xy.shape[1] // 2
    return single(xy[:, :d]), single(xy[:, d:])


_PAIR = normal("normal pair", pairs(1, 0.75))
_TWO_CLASSES = normal_classes("two normal classes", (0.0, 2.0), (1.0, 1.0), (0.5, 0.5))

CONTINUOUS = {
    1: (
        _PAIR,
        normal("weak normal pair", pairs(1, 0.3)),
        transformed(_PAIR, "half-cube", half_cube),
        transformed(_PAIR, "arsinh", np.arcsinh, np.arcsinh),
        transformed(_PAIR, "normal cdf", stats.norm.cdf, stats.norm.cdf),
        transformed(_PAIR, "wiggly", wiggly_x, wiggly_y),
        student("Student t, 3 degrees", pairs(1, 0.5), 3),
        transformed(student("Student t, 1 degree", pairs(1, 0.0), 1), "arsinh", np.arcsinh, np.arcsinh),
        uniform_noise(0.25),
        uniform_noise(0.75),
        normal("independent normals", pairs(1, 0.0)),
    ),
    2: (
        normal("2 normal pairs", pairs(2, 0.75)),
        normal("dense normals, d = 2", dense(2, 0.5)),
        transformed(normal("2 normal pairs", pairs(2, 0.75)), "half-cube", half_cube),
        student("Student t, 3 degrees, d = 2", pairs(2, 0.0), 3),
        normal("independent normals, d = 2", pairs(2, 0.0)),
    ),
    3: (
        normal("dense normals, d = 3", dense(3, 0.5)),
        normal("3 normal pairs", pairs(3, 0.75)),
        normal("2 pairs of 3 normals", pairs(3, 0.8, 2)),
        transformed(normal("2 pairs of 3 normals", pairs(3, 0.8, 2)), "normal cdf", stats.norm.cdf, stats.norm.cdf),
        student("Student t, 3 degrees, d = 3", pairs(3, 0.0), 3),
    ),
    5: (
        normal("dense normals, d = 5", dense(5, 0.5)),
        normal("5 normal pairs", pairs(5, 0.75)),
        normal("2 pairs of 5 normals", pairs(5, 0.8, 2)),
        student("Student t, 3 degrees, d = 5", pairs(5, 0.0), 3),
    ),
    10: (
        normal("dense normals, d = 10", dense(10, 0.5)),
        normal("10 normal pairs", pairs(10, 0.75)),
        normal("2 pairs of 10 normals", pairs(10, 0.8, 2)),
    ),
}
"""By the number of features of x, and as many of y."""

LABELLED = {
    1: (
        _TWO_CLASSES,
        normal_classes("four normal classes", (-3.0, -1.0, 1.0, 3.0), (1.0,) * 4, (0.4, 0.3, 0.2, 0.1)),
        normal_classes("a wide and a narrow class", (0.0, 0.0), (1.0, 3.0), (0.5, 0.5)),
        rectified_classes("rectified normal classes", (-1.0, 0.0, 1.0)),
        overlapping_classes(5),
        zero_inflated(0.15),
        independent_labels(1, 4),
    ),
    2: (among_noise(_TWO_CLASSES, 2),),
    10: (label_channel(10, 0.1), label_channel(10, 0.3), among_noise(_TWO_CLASSES, 10)),
}
"""By the number of features of x; y are labels."""
