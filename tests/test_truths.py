"""All estimators against known information: right where their docstrings say so, off in the known way elsewhere.

Every value is the mean over seeds, and the tolerance four standard errors of that mean beside the bias that the docstring
states, which was measured on other seeds.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import truths
from scipy import stats
from scipy.spatial.distance import pdist

from ipjax import assess
from ipjax.estimators import (
    KDE,
    KSG,
    NWJ,
    SMILE,
    Binned,
    Critic,
    DonskerVaradhan,
    GaussianChannel,
    InfoNCE,
    Labels,
    Probe,
    Projected,
    Renyi,
    Ross,
)
from ipjax.estimators.base import checked
from ipjax.estimators.kde import noise_variance

TRUTHS = {truth.name: truth for table in (truths.CONTINUOUS, truths.LABELLED) for row in table.values() for truth in row}
N = 1000
SEEDS = 24
CLASSES = 20  # of every labelled sample, most of them empty, so that samples of one width share compiled estimators
slow = pytest.mark.slow

SMOOTH = (
    "normal pair",
    "half-cube of normal pair",
    "arsinh of normal pair",
    "normal cdf of normal pair",
    "wiggly of normal pair",
)
WEAK = ("weak normal pair", "independent normals")
TAILS_AND_EDGES = (
    "Student t, 3 degrees",
    "arsinh of Student t, 1 degree",
    "uniform noise ± 0.25",
    "uniform noise ± 0.75",
)
TWO = ("2 normal pairs", "dense normals, d = 2", "half-cube of 2 normal pairs", "independent normals, d = 2")
CLUSTERS = ("two normal classes", "four normal classes")
BENT = ("a wide and a narrow class", "rectified normal classes", "5 overlapping uniform classes")
CHANNELS = ("label channel, 10 classes, 0.1 wrong", "label channel, 10 classes, 0.3 wrong")


@jax.jit
def estimates(estimator, samples):
    """The estimator's result on every one of several samples."""
    keys = jax.random.split(jax.random.key(0), len(samples[0]))
    return jax.lax.map(lambda each: estimator(*each[0], each[1]), (samples, keys))


def drawn(truth, n, seeds):
    """Samples of a truth, stacked, as `mutual_information` hands them to an estimator."""
    every = [checked(*truth.sample(n, seed)) for seed in range(seeds)]
    every = [(x, Labels(y.values, CLASSES) if isinstance(y, Labels) and y.num_classes < n else y) for x, y in every]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *every)


def measured(estimator, truth, n=N, seeds=SEEDS):
    """(mean, its standard error, all results) over seeds."""
    results = jax.device_get(estimates(estimator, drawn(truth, n, seeds)))
    values = np.asarray(results.value, np.float64)
    return values.mean(), values.std(ddof=1) / np.sqrt(seeds), results


def plug_in(num_bins, others, n=N):
    """Nats by which plug-in information is too high at most: (cells of x - 1)(cells of y - 1) / 2n."""
    return (num_bins - 1) * (others - 1) / (2 * n)


def unlearnt(parameters, n=N):
    """Nats by which a probe of as many free parameters, fitted on 3/5 of the sample, falls short: parameters / 1.2 n."""
    return parameters / (1.2 * n)


def rows(estimator, names, *, share=0.0, low=0.0, high=0.0, marks=(), **sample):
    """A row of `HOLDS` for each truth: how much too low (as a share of the truth, or in nats) or too high it may be."""
    allowed = {name: (share * TRUTHS[name].information + low, high) for name in names}
    return [
        pytest.param(estimator, name, *allowed[name], sample, id=f"{label(estimator)}: {name}", marks=marks) for name in names
    ]


def label(estimator):
    settings = {
        "KSG": lambda: estimator.variant,
        "Binned": lambda: f"{estimator.edges} {estimator.num_bins}{' corrected' * estimator.miller_madow}",
        "KDE": lambda: estimator.noise,
    }
    name = type(estimator).__name__
    return f"{name} {settings[name]()}" if name in settings else name


HOLDS = [
    *rows(KSG(), (SMOOTH[0], SMOOTH[-1], *WEAK)),
    *rows(KSG(), SMOOTH[1:-1], marks=slow),
    *rows(KSG(), TAILS_AND_EDGES[1:3], share=0.12),
    *rows(KSG(), TAILS_AND_EDGES[::3], share=0.12, marks=slow),
    *rows(KSG(), TWO[:1], share=0.06),
    *rows(KSG(), TWO[1:], share=0.06, marks=slow),
    *rows(KSG(variant=2), (*SMOOTH, *WEAK), marks=slow),
    *rows(KSG(variant=2), TAILS_AND_EDGES, share=0.12, marks=slow),
    *rows(KSG(variant=2), TWO, share=0.06, marks=slow),
    *rows(Ross(), (*CLUSTERS, *BENT, "independent labels, d = 1")),
    *rows(Ross(), ("two normal classes, d = 2",), marks=slow),
    *rows(Ross(), ("two normal classes, d = 10",), share=0.1, marks=slow),
    *rows(Projected(Ross()), ("two normal classes, d = 10",), share=0.1, high=0.02, marks=slow),
    *rows(Probe(), ("two normal classes",), low=unlearnt(2)),
    *rows(Probe(), ("four normal classes", "independent labels, d = 1"), low=unlearnt(6)),
    *rows(Probe(), ("two normal classes, d = 10",), low=unlearnt(11), marks=slow),
    *rows(Probe(), CHANNELS, low=unlearnt(99), marks=slow),
    *rows(KDE(0.005), CHANNELS[:1], high=plug_in(10, 10), seeds=12),
    *rows(KDE(0.005), CHANNELS[1:], high=plug_in(10, 10), marks=slow),
    *rows(Binned(30), CHANNELS, high=plug_in(10, 10)),
    *rows(Binned(30), ("two normal classes", "a wide and a narrow class"), high=plug_in(30, 2)),
    *rows(Binned(30), ("four normal classes", "independent labels, d = 1"), high=plug_in(30, 4)),
    *rows(Binned(30), ("rectified normal classes",), high=plug_in(30, 3)),
    *rows(Binned(30), ("5 overlapping uniform classes",), high=plug_in(30, 5)),
    *rows(Binned(30, miller_madow=True), (*CLUSTERS, *BENT), share=0.01),
    *rows(Binned(30, code="unit"), CLUSTERS, high=plug_in(30, 4), marks=slow),
]


@pytest.mark.parametrize(("estimator", "name", "low", "high", "sample"), HOLDS)
def test_where_it_holds_the_truth_is_met(estimator, name, low, high, sample):
    truth = TRUTHS[name].information
    mean, error, results = measured(estimator, TRUTHS[name], **sample)
    assert truth - low - 4 * error < mean < truth + high + 4 * error
    assert error < max(0.03 * truth, 0.012)
    assert not results.saturated.any()


OFF = [  # the share of the truth that an estimator sees outside its regime
    (KSG(), "Student t, 3 degrees, d = 2", 0.3, 0.6),
    (KSG(), "10 normal pairs", 0.3, 0.45),
    (KSG(), "2 pairs of 10 normals", 0.2, 0.4),
    (KSG(), "dense normals, d = 10", 0.7, 0.9),
    (KSG(variant=2), "10 normal pairs", 0.3, 0.45),
    (KSG(variant=2), "2 pairs of 10 normals", 0.2, 0.4),
    (Ross(), "label channel, 10 classes, 0.1 wrong", 1.05, 1.2),
    (Ross(), "label channel, 10 classes, 0.3 wrong", 1.05, 1.3),
    (Ross(), "zero-inflated Poisson, 0.15 zeros", 0.85, 1.0),
    (Probe(), "a wide and a narrow class", -0.02, 0.02),
    (Probe(), "rectified normal classes", 0.7, 0.85),
    (Probe(), "5 overlapping uniform classes", 0.8, 0.92),
    (KDE(0.05), "two normal classes, d = 10", 1.2, 1.4),
    (KDE(0.005), "zero-inflated Poisson, 0.15 zeros", 1.3, 1.8),
    (KDE(0.01), "normal pair", 1.3, 1.7),
    (KDE(0.01), "2 normal pairs", 2.4, 3.2),
    (Binned(30), "two normal classes, d = 2", 1.2, 1.4),
    (Binned(30), "normal pair", 1.3, 1.7),
    (Binned(30), "2 normal pairs", 4.0, 6.0),
    (Binned(10), "normal pair", 0.9, 1.0),
    (Binned(10), "Student t, 3 degrees", 0.5, 0.85),
    (GaussianChannel(1e-3), "uniform noise ± 0.75", 0.45, 0.65),
    (GaussianChannel(1e-3), "Student t, 3 degrees, d = 2", 0.0, 0.3),
]
OFF_BY_DEFAULT = ("10 normal pairs", "Student t, 3 degrees, d = 2", "a wide and a narrow class")


@pytest.mark.parametrize(
    ("estimator", "name", "least", "most"),
    [
        pytest.param(
            *row,
            id=f"{label(row[0])}: {row[1]}",
            marks=() if row[1] in OFF_BY_DEFAULT and row[0] in (KSG(), Ross(), Probe()) else slow,
        )
        for row in OFF
    ],
)
def test_outside_its_regime_an_estimate_is_off_in_the_known_way(estimator, name, least, most):
    truth = TRUTHS[name].information
    mean, error, _ = measured(estimator, TRUTHS[name], seeds=16)
    assert least * truth - 4 * error < mean < most * truth + 4 * error
    assert abs(mean - truth) > 2 * error


@pytest.mark.parametrize(("estimator", "most"), [(Binned(30), 1.0), (KDE(0.005), 1.0)], ids=label)
def test_ten_features_saturate_cells_and_narrow_kernels(estimator, most):
    mean, _, results = measured(estimator, TRUTHS["two normal classes, d = 10"], seeds=4)
    assert results.saturated.all()
    assert mean > 0.99 * results.ceiling.mean() > 2 * TRUTHS["two normal classes, d = 10"].information


def test_classes_of_few_make_the_interval_infinite():
    _, _, results = measured(Ross(), TRUTHS["zero-inflated Poisson, 0.15 zeros"], seeds=4)
    assert np.isinf(results.upper).all()


@pytest.mark.parametrize(
    ("name", "correlation"),
    [*((name, 0.75) for name in SMOOTH if "wiggly" not in name), ("weak normal pair", 0.3), ("independent normals", 0.0)],
)
def test_quantile_cells_tell_what_the_cells_of_the_distribution_do(name, correlation):
    truth = truths.cells_information(correlation, 10)
    mean, error, _ = measured(Binned(10, "quantile"), TRUTHS[name])
    assert truth - 4 * error < mean < truth + plug_in(10, 10) + 4 * error
    assert truth < 0.92 * TRUTHS[name].information or correlation == 0  # ten cells lose a tenth


@pytest.mark.parametrize(
    ("name", "n", "noise"),
    [
        *(("two normal classes", n, noise) for n in (200, None) for noise in (0.005, 0.05, 0.5)),
        *(pytest.param("two normal classes, d = 10", 200, noise, marks=slow) for noise in (0.05, 0.5)),
    ],
)
def test_the_kernel_bracket_contains_the_information_of_the_sample(name, n, noise):
    """With labels, or (None) with every sample its own."""
    own, n = n is None, n or 200
    x, y = TRUTHS[name].sample(n, 0)
    x, labels = checked(x, np.arange(n) if own else y)
    result = estimates(KDE(noise), jax.tree.map(lambda leaf: leaf[None], (x, labels)))
    truth, error = truths.mixture_information(x, labels.values, float(noise_variance(x, noise)))
    assert result.lower[0] - 4 * error < truth < result.upper[0] + 4 * error
    assert error < 0.02


@pytest.mark.parametrize("d", [1, pytest.param(3, marks=slow)])
def test_kernel_bounds_of_normal_features_are_those_of_the_distribution(d, n=2000, noise=0.05):
    """They lie about d/2 above and (ln 2 - 1/2) d below the information of the channel, which no sample size changes."""
    variance = noise * truths.normal_distance(d)

    def bound(factor):
        return truths.channel_information(d, factor * noise) + d / (2 * (1 + factor * variance))

    _, _, results = measured(KDE(noise), own_labels(d), n=n, seeds=4)
    for values, expected in ((results.upper, bound(1)), (results.lower, bound(4))):
        error = np.std(values, ddof=1) / 2
        assert abs(np.mean(values) - expected) < 4 * error + np.exp(expected) / n  # the sample's own points count in it
    truth = truths.channel_information(d, noise)
    assert 0.4 * d < bound(1) - truth < 0.5 * d
    assert -0.25 * d < bound(4) - truth < -0.1 * d


def own_labels(d):
    """Unit normals, every sample its own label; the truth is the Gaussian channel's, without its noise's share."""

    def sample(n, seed):
        return truths.independent_labels(d, 2).sample(n, seed)[0], np.arange(n)

    return truths.Truth(f"own labels, d = {d}", np.inf, sample)


@pytest.mark.parametrize("d", [1, pytest.param(3, marks=slow), 10])
def test_gaussian_channel_of_normal_features(d, noise=0.05):
    truth = truths.channel_information(d, noise)
    seen = 1 / (1 + noise * truths.normal_distance(d))
    mean, error, _ = measured(GaussianChannel(noise), own_labels(d), seeds=12)
    assert abs(mean - truth + channel_bias(np.full(d, seen))) < 4 * error


def channel_bias(seen):
    """[(Σf)² + Σf² + 2Σf] / 4n, of f = λ/(λ + s²)."""
    return (np.sum(seen) ** 2 + np.sum(seen**2) + 2 * np.sum(seen)) / (4 * N)


@pytest.mark.parametrize(
    ("d", "covariance"),
    [
        (1, truths.pairs(1, 0.75)),
        (1, truths.pairs(1, 0.3)),
        (10, truths.pairs(10, 0.75)),
        pytest.param(10, truths.pairs(10, 0.8, 2), marks=slow),
        (10, truths.dense(10, 0.5)),
    ],
    ids=["pair", "weak pair", "10 pairs", "2 pairs of 10", "dense, d = 10"],
)
def test_gaussian_channel_of_jointly_normal_sides(d, covariance, noise=1e-3):
    distribution = truths.normal("", covariance)
    scaled = noise * np.median(pdist(distribution.sample(3000, 0)[0], "sqeuclidean"))
    truth = truths.normal_information(covariance + scaled * np.eye(2 * d))
    of_side, joint = (np.linalg.eigvalsh(part) for part in (covariance[:d, :d], covariance))
    bias = channel_bias(joint / (joint + scaled)) - 2 * channel_bias(of_side / (of_side + scaled))
    mean, error, _ = measured(GaussianChannel(noise), distribution, seeds=12)
    assert abs(mean - truth - bias) < 4 * error
    assert error < 0.03


def test_gaussian_channel_takes_two_far_clusters_for_a_long_normal():
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    record = assess(np.float32(rng.normal(size=(N, 1)) + 60 * y[:, None]), y, GaussianChannel(1e-4), num_null=0)
    assert record["information"] > 2 * np.log(2)
    assert "saturated" in record["warnings"]


@pytest.mark.parametrize("d", [1, pytest.param(10, marks=slow)])
def test_renyi_of_normal_features_is_that_of_the_distribution(d):
    """S of order 2 is -ln E K², and K² = exp(-|x - x'|²/σ²) of unit normals is (1 + 4/σ²)^(-d/2) on average."""
    width = 0.5
    between = (1 + 4 / (width * truths.normal_distance(d))) ** (-d / 2)
    mean, error, _ = measured(Renyi(width=width), own_labels(d), seeds=12)
    assert abs(mean + np.log(between * (1 - 1 / N) + 1 / N)) < 4 * error


def test_renyi_of_a_normal_pair_is_that_of_the_distribution(width=0.5, correlation=0.75):
    scale = 4 / (width * truths.normal_distance(1))

    def between(covariance):
        return (1 - 1 / N) / np.sqrt(np.linalg.det(np.eye(len(covariance)) + scale * covariance)) + 1 / N

    truth = np.log(between(truths.pairs(1, correlation))) - 2 * np.log(between(np.eye(1)))
    mean, error, _ = measured(Renyi(width=width), TRUTHS["normal pair"], seeds=12)
    assert abs(mean - truth) < 4 * error
    assert abs(truth - TRUTHS["normal pair"].information) > 0.05  # no estimate of Shannon's information


@slow
@pytest.mark.parametrize("estimator", [InfoNCE(), NWJ(), DonskerVaradhan(), SMILE()], ids=label)
@pytest.mark.parametrize(
    ("name", "least"),
    [("normal pair", 0.9), ("half-cube of normal pair", 0.9), ("3 normal pairs", 0.75), ("independent normals", 1.0)],
)
def test_critics_fall_short_by_what_their_sample_does_not_teach(estimator, name, least, seeds=6):
    truth = TRUTHS[name].information
    _, _, results = measured(estimator, TRUTHS[name], n=2000, seeds=seeds)
    middle = np.median(results.value)  # a few far pairs at times pull one value down
    error = 1.2533 * 1.4826 * np.median(np.abs(results.value - middle)) / np.sqrt(seeds)
    assert least * truth - 4 * error - 0.01 < middle < truth + 4 * error
    assert error < max(0.04 * truth, 0.005)
    assert not results.saturated.any()


@slow
def test_infonce_bends_below_its_ceiling():
    truth = TRUTHS["10 normal pairs"]
    narrow, error, results = measured(InfoNCE(Critic(batch_size=16)), truth, n=2000, seeds=4)
    wide, _, _ = measured(InfoNCE(), truth, n=2000, seeds=4)
    assert results.ceiling[0] == pytest.approx(np.log(16))
    assert 0.5 * np.log(16) < narrow + 4 * error < 0.8 * np.log(16) < truth.information
    assert narrow + 0.5 < wide < np.log(128) < truth.information + 1


DIMENSION, SIZE = "effective dimension", "depends on the sample's size"
FLAGS = [
    (KSG(), "normal pair", None),
    (KSG(), "arsinh of normal pair", None),
    (KSG(), "uniform noise ± 0.25", None),
    (KSG(), "10 normal pairs", DIMENSION),
    (KSG(), "2 pairs of 10 normals", DIMENSION),
    (KSG(), "independent normals", "not above the null"),
    (Ross(), "two normal classes", None),
    (Ross(), "a wide and a narrow class", None),
    (Ross(), "two normal classes, d = 10", DIMENSION),
    (Ross(), "zero-inflated Poisson, 0.15 zeros", "fewer than 20 samples"),
    (Binned(30), "two normal classes", None),
    (Binned(30), "label channel, 10 classes, 0.1 wrong", None),
    (Binned(30), "two normal classes, d = 10", "saturated"),
    (Binned(30), "two normal classes, d = 2", SIZE),
    (Binned(30), "normal pair", SIZE),
    (Binned(30), "2 normal pairs", SIZE),
    (KDE(0.05), "two normal classes", None),
    (KDE(0.05), "two normal classes, d = 10", SIZE),
    (KDE(0.005), "two normal classes, d = 10", "saturated"),
    (KDE(0.01), "2 normal pairs", SIZE),
    (Probe(), "two normal classes", None),
    (Probe(), "a wide and a narrow class", "not above the null"),
    (GaussianChannel(1e-3), "normal pair", None),
]
FLAGS_BY_DEFAULT = (0, 5, 12)  # rows that share their compiled code, or take little


@pytest.mark.parametrize(
    ("estimator", "name", "flag"),
    [
        pytest.param(*row, id=f"{label(row[0])}: {row[1]}", marks=() if place in FLAGS_BY_DEFAULT else slow)
        for place, row in enumerate(FLAGS)
    ],
)
def test_outside_its_regime_a_flag_goes_up_and_inside_none(estimator, name, flag):
    warnings = assess(*TRUTHS[name].sample(N, 0), estimator, num_null=9)["warnings"]
    assert warnings is None if flag is None else flag in warnings


@pytest.mark.parametrize(
    "name", ["uniform noise ± 0.25", "Student t, 3 degrees", "rectified normal classes", "two normal classes"]
)
def test_the_truth_is_the_mean_of_what_single_samples_tell(name, n=200_000):
    """The mean of ln p(x, y) / p(x) p(y), from densities written down anew."""
    x, y = TRUTHS[name].sample(n, 0)
    local = DENSITY_RATIOS[name](np.float64(x[:, 0]), y if y.ndim == 1 else np.float64(y[:, 0]))
    assert abs(np.mean(local) - TRUTHS[name].information) < 4 * np.std(local) / np.sqrt(n)


def of_student(x, y):
    def log_density(points, dispersion):
        return stats.multivariate_t.logpdf(points, np.zeros(len(dispersion)), dispersion, df=3)

    joint = log_density(np.stack([x, y], axis=1), truths.pairs(1, 0.5))
    return joint - log_density(x[:, None], np.eye(1)) - log_density(y[:, None], np.eye(1))


def of_uniform_noise(x, y):
    covered = np.minimum(y + 0.25, 1) - np.maximum(y - 0.25, 0)  # of [0, 1], by the window around y
    return -np.log(covered)


def of_rectified_classes(x, y):
    means = np.array([-1.0, 0.0, 1.0])
    each = np.where(x[:, None] > 0, stats.norm.pdf(x[:, None] - means), stats.norm.cdf(-means))
    return np.log(each[np.arange(len(y)), y] / each.mean(axis=1))


def of_two_classes(x, y):
    return -np.logaddexp(0, np.where(y == 1, -1, 1) * (2 * x - 2)) + np.log(2)


DENSITY_RATIOS = {
    "uniform noise ± 0.25": of_uniform_noise,
    "Student t, 3 degrees": of_student,
    "rectified normal classes": of_rectified_classes,
    "two normal classes": of_two_classes,
}
