"""Ross against its slow reference, scikit-learn and known truths."""

import chex
import jax
import jax.numpy as jnp
import neighbours_reference as reference
import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif

from ipjax.estimators import Labels, Ross, mutual_information


def sample(n=120, d=2, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    return rng.normal(size=(n, d)) + 0.7 * y[:, None], y


def numbers(result):
    return tuple(float(part) for part in (result.value, result.lower, result.upper))


def interval(value, error):
    return value, value - 1.96 * error, value + 1.96 * error


def value(x, y, k=3):
    return float(mutual_information(x, y, Ross(k)).value)


@pytest.mark.parametrize(("n", "d", "k"), [(60, 1, 1), (300, 35, 5), (1100, 2, 3)])
def test_matches_the_reference(n, d, k):
    x, y = sample(n, d)
    expected = interval(*reference.ross(x, y, k))
    with jax.enable_x64(True):
        chex.assert_trees_all_close(numbers(mutual_information(x, y, Ross(k))), expected, rtol=1e-10)


def test_single_precision_is_enough():
    x, y = sample()
    # A neighbour may change places with one as far to 7 digits; none does here.
    chex.assert_trees_all_close(numbers(mutual_information(x, y, Ross())), interval(*reference.ross(x, y)), atol=1e-5)


@pytest.mark.parametrize("offset", [0, 100])
def test_ties_on_a_lattice_survive_single_precision(offset):
    x, y = sample(300, 2)
    x = np.round(3 * x) / 8 + offset  # far from its mean's multiples
    expected = interval(*reference.ross(x, y))
    chex.assert_trees_all_close(numbers(mutual_information(x.astype(np.float32), y, Ross())), expected, atol=1e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_one_feature_is_as_scikit_learn_has_it(k):
    x, y = sample(400, 1)
    expected = mutual_info_classif(x, y, n_neighbors=k, random_state=0)[0]
    assert expected > 0.1
    with jax.enable_x64(True):  # its jitter of 1e-10 changes no order here
        chex.assert_trees_all_close(value(x, y, k), expected, rtol=1e-10)


def test_small_classes_are_as_scikit_learn_has_them_and_make_the_interval_infinite():
    x, _ = sample(100, 1)
    y = np.repeat([0, 1, 2, 3, 4], [60, 34, 3, 2, 1])
    expected, _ = reference.ross(x, y)
    # In small classes scikit-learn takes distances from products, and rounds some to beyond the neighbour: a count or two.
    chex.assert_trees_all_close(mutual_info_classif(x, y, random_state=0)[0], max(expected, 0), atol=0.01)
    with jax.enable_x64(True):
        result = mutual_information(x, y, Ross())
    chex.assert_trees_all_close(float(result.value), expected, rtol=1e-9)
    assert numbers(result)[1:] == (-np.inf, np.inf)
    for members, finite in ((3, False), (4, True)):  # 4 members have 3 neighbours each
        assert np.isfinite(mutual_information(x, np.repeat([0, 1], [100 - members, members]), Ross()).upper) == finite


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_two_normal_classes(shift):
    def information(c):
        p, q = stats.norm.pdf(c), stats.norm.pdf(c, shift)
        return (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2

    truth = integrate.quad(information, -9, 9 + shift)[0]
    rng = np.random.default_rng(0)
    y = np.arange(500) % 2
    draws = np.array([value(rng.normal(size=(500, 1)) + shift * y[:, None], y) for _ in range(24)])
    error = np.std(draws, ddof=1) / np.sqrt(24)
    assert abs(np.mean(draws) - truth) < 3 * error
    assert error < 0.01
    if shift == 0:
        assert min(draws) < -1e-3  # not clipped


def test_uniform_classes_that_overlap():
    # Class 0 on [0, 1], class 1 on [1/2, 3/2]: half of each is certain, the other half tells nothing: ln 2 / 2.
    rng = np.random.default_rng(0)
    y = np.arange(500) % 2
    draws = [value(rng.uniform(size=(500, 1)) + y[:, None] / 2, y) for _ in range(24)]
    error = np.std(draws, ddof=1) / np.sqrt(24)
    assert abs(np.mean(draws) - np.log(2) / 2) < 3 * error + 0.01  # the edges
    assert error < 0.01


@pytest.mark.parametrize(("p", "truth"), [(0.1, 1.7578), (0.3, 1.0326)])
def test_symmetric_label_channel_through_separated_clusters(p, truth):
    table = np.full((10, 10), round(900 * p / 9))
    np.fill_diagonal(table, round(900 * (1 - p)))
    clusters, labels = (np.repeat(index.ravel(), table.ravel()) for index in np.indices((10, 10)))
    keep = np.random.default_rng(0).permutation(len(labels))[:3000]
    x = clusters[keep, None] + 1e-3 * np.random.default_rng(1).normal(size=(3000, 1))
    result = mutual_information(x, labels[keep], Ross())
    error = float(result.upper - result.value) / 1.96
    assert abs(float(result.value) - truth) < 3 * error
    assert error < 0.03


def test_separated_clusters_give_the_ceiling_and_say_so():
    y = np.repeat(np.arange(3), [60, 40, 20])
    noise = np.random.default_rng(0).normal(size=(120, 2))
    result = mutual_information(100 * np.eye(3)[y][:, :2] + noise, y, Ross())
    expected = digamma(120) - np.sum(np.array([60, 40, 20]) / 120 * digamma([60, 40, 20]))
    chex.assert_trees_all_close((float(result.value), float(result.ceiling)), (expected, expected), rtol=1e-5)
    assert abs(expected - Labels(jnp.asarray(y), 3).entropy()) < 1.1 * 2 / 240
    assert result.saturated
    assert not mutual_information(noise, y, Ross()).saturated


def test_shift_scale_and_order_of_features_do_not_matter():
    x, y = sample()
    for other in (x + 5, 100 * x, x[:, ::-1]):
        chex.assert_trees_all_close(value(other, y), value(x, y), atol=1e-5)
    one, _ = sample(d=1)
    chex.assert_trees_all_close(value(np.exp(one / 4), y), value(one, y), atol=0.03)  # monotone: the neighbours hardly change


def test_copies_are_counted():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 1)), np.arange(300) % 3
    x[y == 0] -= 1
    x = np.maximum(x, 0)  # a ReLU: most of the first class, half of the others are 0
    expected = interval(*reference.ross(x, y))
    with jax.enable_x64(True):
        chex.assert_trees_all_close(numbers(mutual_information(x, y, Ross())), expected, rtol=1e-9)
    jittered = mutual_info_classif(x, y, random_state=0)[0]
    assert abs(expected[0] - jittered) < 3 * (expected[2] - expected[0]) / 1.96


def test_discrete_features_give_their_plug_in_information():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=900)
    x = np.where(rng.uniform(size=900) < 0.8, y, rng.integers(0, 3, size=900))
    p = np.histogram2d(x, y, bins=3)[0] / 900
    plug_in = np.sum(p * np.log(p / p.sum(axis=0) / p.sum(axis=1)[:, None]))
    assert abs(value(x[:, None].astype(float), y) - plug_in) < 9 / 900  # ψ instead of ln: less than a sample a cell


def test_two_samples_and_one_neighbour():
    chex.assert_trees_all_close(value(np.array([[0.0], [1.0]]), np.array([0, 0]), 1), 0.0, atol=1e-6)


def test_as_many_neighbours_as_samples_are_refused():
    with pytest.raises(ValueError, match="expected fewer than the 20 samples, got 20; take fewer neighbours"):
        value(*sample(20), 20)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="num_neighbors: expected at least 1, got 0"):
        Ross(0)
