"""KSG against its slow reference and against known truths; distances, selection and counts against NumPy's."""

import chex
import jax
import jax.numpy as jnp
import neighbours_reference as reference
import numpy as np
import pytest
from scipy.special import digamma

from ipjax.estimators import KSG, mutual_information
from ipjax.estimators import neighbours as tiles_of

variants = pytest.mark.parametrize("variant", [1, 2])


def sample(n=60, dx=2, dy=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dx))
    return x, x[:, :1] + rng.normal(size=(n, dy))


def pair(n, correlation=0.75, d=1, seed=0):
    a, noise = np.random.default_rng(seed).normal(size=(2, n, d))
    return a, correlation * a + np.sqrt(1 - correlation**2) * noise


def interval(value, error):
    return value, value - 1.96 * error, value + 1.96 * error


def numbers(result):
    return tuple(float(part) for part in (result.value, result.lower, result.upper))


def value(x, y, variant=1, k=3):
    return float(mutual_information(x, y, KSG(k, variant)).value)


def mean_and_error(draws):
    return np.mean(draws), np.std(draws, ddof=1) / np.sqrt(len(draws))


@variants
@pytest.mark.parametrize(("n", "dx", "dy", "k"), [(60, 1, 1, 1), (60, 2, 3, 3), (129, 1, 35, 7)])
def test_matches_the_reference(variant, n, dx, dy, k):
    x, y = sample(n, dx, dy)
    expected = interval(*reference.ksg(x, y, k, variant))
    with jax.enable_x64(True):
        chex.assert_trees_all_close(numbers(mutual_information(x, y, KSG(k, variant))), expected, rtol=1e-10, atol=1e-10)


@variants
def test_single_precision_is_enough(variant):
    x, y = sample(60)
    # A neighbour may change places with one as far to 7 digits; none does here.
    expected = interval(*reference.ksg(x, y, 3, variant))
    chex.assert_trees_all_close(numbers(mutual_information(x, y, KSG(3, variant))), expected, atol=1e-5)


@variants
def test_ties_on_a_lattice_survive_single_precision(variant):
    x, y = sample(300)
    x = np.round(3 * x) / 8 + 100
    expected = interval(*reference.ksg(x, y, 3, variant))
    chex.assert_trees_all_close(numbers(mutual_information(x.astype(np.float32), y, KSG(3, variant))), expected, atol=1e-5)


@pytest.mark.parametrize(("n", "variant"), [(513, 2), (1100, 1)])
def test_samples_in_several_blocks_match_the_reference(n, variant):
    x, y = sample(n)
    with jax.enable_x64(True):
        result = numbers(mutual_information(x, y, KSG(3, variant)))
    chex.assert_trees_all_close(result, interval(*reference.ksg(x, y, 3, variant)), rtol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(5, 1), (128, 16), (300, 33)])
def test_distances_selection_and_counts_match_numpy(n, d):
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    index = np.array([0, n // 2, n - 1])
    expected = np.abs(x[index, None] - x[None]).max(axis=2)
    distances = tiles_of.max_norm(jnp.asarray(x[index]), tiles_of.in_tiles(jnp.asarray(x)))
    side_by_side = np.moveaxis(np.asarray(distances), 0, 1).reshape(3, -1)
    chex.assert_trees_all_equal(side_by_side[:, :n], expected)
    assert np.isinf(side_by_side[:, n:]).all()
    chex.assert_trees_all_equal(tiles_of.columns(len(distances)).ravel(), jnp.arange(side_by_side.shape[1]))
    ordered = np.sort(expected, axis=1)
    chex.assert_trees_all_equal(np.asarray(tiles_of.smallest(distances, 4)), ordered[:, :4])
    third = ordered[:, 2]
    chex.assert_trees_all_equal(np.asarray(tiles_of.count(distances, jnp.asarray(third))), np.array([2, 2, 2]))
    chex.assert_trees_all_equal(np.asarray(tiles_of.count(distances, jnp.zeros(3))), np.array([1, 1, 1]))
    among = distances <= jnp.asarray(third)[:, None]
    chex.assert_trees_all_equal(np.asarray(tiles_of.largest(distances, among)), third)


def test_selection_where_the_nearest_share_a_column_of_the_tiles():
    distances = np.random.default_rng(0).uniform(1, 2, size=(4, 2, 128)).astype(np.float32)
    distances[:, 0, 5] = [0.3, 0.1, 0.4, 0.2]
    distances[:, 1, 7] = [0.4, 0.4, 0.3, 0.5]
    nearest = np.asarray(tiles_of.smallest(jnp.asarray(distances), 3))
    chex.assert_trees_all_equal(nearest, np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.4]], np.float32))


@variants
@pytest.mark.parametrize(("correlation", "d"), [(0.75, 1), (0.6, 2), (0.0, 1)])
def test_normal_pairs(variant, correlation, d):
    truth = -0.5 * d * np.log(1 - correlation**2)  # .4133, .4463 and 0
    draws = np.array([value(*pair(500, correlation, d, seed), variant) for seed in range(24)])
    mean, error = mean_and_error(draws)
    assert abs(mean - truth) < 3 * error + (0.01 if d > 1 else 0)  # at d = 2 the density bends within ε: bias of k at this n
    assert error < 0.012
    if correlation == 0:
        assert min(draws) < -1e-3  # not clipped
    result = mutual_information(*pair(500, correlation, d), KSG(3, variant))
    scatter = float(result.upper - result.lower) / 2 / 1.96
    assert 0.5 < scatter / (error * np.sqrt(24)) < 2  # the interval is of the right size


@variants
def test_uniform_with_uniform_noise(variant):
    # X on [0, 1], Y = X + U, U on [-w/2, w/2]: I = w/2 - ln w up to w = 1. At the edges the density jumps within ε, which
    # costs a share of about the edges' length times ε; so the estimate is low, and less so the more samples there are.
    width, below = 0.5, []
    for n, draws in ((200, 30), (2000, 6)):
        values = []
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            x = rng.uniform(size=(n, 1))
            values.append(value(x, x + width * rng.uniform(-0.5, 0.5, size=x.shape), variant))
        mean, error = mean_and_error(values)
        below.append(width / 2 - np.log(width) - mean)
        assert error < 0.02
    assert 0 < below[1] < below[0] / 2 < 0.1


@variants
def test_monotone_transforms_leave_the_information(variant):
    a, b = pair(2000)
    plain, bent = value(a, b, variant), value(np.sign(a) * np.abs(a) ** 1.5, np.exp(b / 2), variant)
    assert abs(plain - bent) < 0.03  # half a standard error of the plain value, 0.02; the same points, so the same scatter
    assert bent > 0.3


@variants
def test_exchange_shift_scale_and_order_of_features_do_not_matter(variant):
    x, y = sample(200, 2, 2)
    expected = value(x, y, variant)
    others = {
        "exchange": (y, x),
        "shift": (x + 5, y - 3),
        "scale": (100 * x, y / 7),
        "features": (x[:, ::-1], y),
    }
    for name, (a, b) in others.items():
        chex.assert_trees_all_close(value(a, b, variant), expected, atol=1e-5, custom_message=name)


@pytest.mark.parametrize(("variant", "k"), [(1, 3), (2, 3), (2, 1)])
def test_equal_variables_give_the_ceiling_and_say_so(variant, k):
    x, _ = sample(100, 1)
    result = mutual_information(x, x, KSG(k, variant))
    expected = digamma(100) - digamma(k) - (variant - 1) / k
    chex.assert_trees_all_close((float(result.value), float(result.ceiling)), (expected, expected), atol=1e-5)
    assert result.saturated
    assert not mutual_information(*pair(100), KSG(k, variant)).saturated


def test_many_dimensions_are_too_many():
    x, y = pair(500, 0.75, 30)  # as the docstring says: 12.4 nats, of which a fifth is seen
    assert value(x, y) < 0.2 * -15 * np.log(1 - 0.75**2)


@variants
def test_copies_are_counted_and_make_the_interval_infinite(variant):
    x, y = sample(60)
    x[10:15], y[10:15] = x[10], y[10]  # five that coincide in both,
    x[20:30] = x[20]  # and ten in x alone
    expected, _ = reference.ksg(x, y, 3, variant)
    with jax.enable_x64(True):
        result = mutual_information(x, y, KSG(3, variant))
    chex.assert_trees_all_close(float(result.value), expected, rtol=1e-10)
    assert numbers(result)[1:] == (-np.inf, np.inf)
    with jax.enable_x64(True):  # with fewer copies than neighbours there still is a distance
        fewer = mutual_information(x, y, KSG(5, variant))
    chex.assert_trees_all_close(numbers(fewer), interval(*reference.ksg(x, y, 5, variant)), rtol=1e-10)


def test_discrete_variables_give_their_plug_in_information():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(900, 1)).astype(float)
    y = np.where(rng.uniform(size=x.shape) < 0.8, x, rng.integers(0, 3, size=x.shape))
    p = np.histogram2d(x[:, 0], y[:, 0], bins=3)[0] / len(x)
    plug_in = np.sum(p * np.log(p / p.sum(axis=0) / p.sum(axis=1)[:, None]))
    assert abs(value(x, y) - plug_in) < 9 / len(x)  # ψ instead of ln: less than a sample a cell


def test_two_samples_and_one_neighbour():
    x = np.array([[0.0], [1.0]])
    chex.assert_trees_all_close(value(x, x, k=1), digamma(2) - digamma(1), atol=1e-6)


def test_as_many_neighbours_as_samples_are_refused():
    with pytest.raises(ValueError, match="expected fewer than the 20 samples, got 20; take fewer neighbours"):
        mutual_information(*sample(20), KSG(20))
    assert np.isfinite(value(*sample(20), k=19))


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"num_neighbors": 0}, "num_neighbors: expected at least 1, got 0"), ({"variant": 3}, "variant: expected 1 or 2, got 3")],
)
def test_settings_that_make_no_sense(settings, match):
    with pytest.raises(ValueError, match=match):
        KSG(**settings)
