"""Another estimator on principal components that the other half of the sample chose."""

import chex
import jax
import numpy as np
import pytest

from ipjax import mutual_information
from ipjax.estimators import KDE, KSG, Binned, Projected, Ross
from ipjax.estimators.projected import components

N = 400
Y = np.arange(N) % 4


def wide(d=30, seed=0):
    """Classes apart along one direction of many."""
    x = np.random.default_rng(seed).normal(size=(N, d))
    x[:, -1] += 3 * Y
    return x


@pytest.mark.parametrize(("n", "d"), [(50, 7), (7, 50)])
def test_components_are_the_singular_vectors(n, d):
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32) * np.linspace(1, 3, d)
    expected = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:3]
    got = np.asarray(components(x, 3)).T
    chex.assert_trees_all_close(np.abs(np.sum(got * expected, axis=1)), np.ones(3), atol=1e-3)  # up to the sign


def test_missing_components_are_zero():
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert not np.any(np.asarray(components(x, 4))[:, 2:])


def test_it_finds_what_many_dimensions_hide():
    truth = 1.137  # of four normal classes 3 deviations apart, by quadrature
    wide_value = mutual_information(wide(), Y, Ross()).value
    result = mutual_information(wide(), Y, Projected(Ross(), 1))
    assert abs(result.value - truth) < 2 * (result.upper - result.lower) / 2 < abs(wide_value - truth)


def test_components_do_not_know_the_samples_they_are_judged_on():
    """With more features than samples the leading components of a sample tell its points apart, those of another do not."""
    x = np.random.default_rng(0).normal(size=(60, 400))
    y = np.arange(60) % 2
    values = [mutual_information(x, y, Projected(Ross(), 3), key=jax.random.key(k)).value for k in range(10)]
    assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / np.sqrt(10)


def test_floating_y_is_projected_as_well():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, N, 20))
    a[:, 0] *= 8
    b[:, 1] = 0.75 * a[:, 0] + np.sqrt(1 - 0.75**2) * 8 * b[:, 1]
    result = mutual_information(a, b, Projected(KSG(), 1))
    assert abs(result.value - 0.4133) < 1.5 * (result.upper - result.lower) / 2


def test_few_features_are_left_as_they_are():
    x = wide(2)
    halves = [mutual_information(x, Y, Projected(Binned(4), k)).value for k in (2, 5)]
    assert halves[0] == halves[1]


def test_of_the_input_every_sample_is_its_own_label():
    chex.assert_trees_all_close(mutual_information(wide(), np.arange(N), Projected(KDE())).ceiling, np.log(N / 2), rtol=1e-6)


@pytest.mark.parametrize("count", [0, 201])
def test_components_that_cannot_be_had(count):
    with pytest.raises(ValueError, match="num_components: expected at"):
        mutual_information(wide(), Y, Projected(Ross(), count))
