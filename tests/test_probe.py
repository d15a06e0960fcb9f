"""The linear probe against its slow reference; its folds and its calibration."""

import chex
import estimator_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipjax.estimators import Labels, Probe, mutual_information
from ipjax.estimators.probe import _INVERSE_TEMPERATURES, balanced_folds

KEY = jax.random.key(3)


def sample(n=90, d=4, num_classes=3, shift=0.8, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    return rng.normal(size=(n, d)) + shift * np.eye(d)[y], y


@pytest.mark.parametrize("num_folds", [3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.8, 3.0])
def test_matches_the_reference(num_folds, shift):
    x, y = sample(shift=shift)
    with jax.enable_x64(True):
        folds = np.array(balanced_folds(Labels(jnp.asarray(y), 3), num_folds, KEY))
        result = mutual_information(x, y, Probe(num_folds), key=KEY)
    expected = reference.probe(x, y, folds, Probe().ridges, _INVERSE_TEMPERATURES)
    chex.assert_trees_all_close(float(result.value), expected, atol=1e-9)


def test_float32_is_close_to_float64():
    x, y = sample()
    result = mutual_information(x, y, Probe(), key=KEY)
    folds = np.array(balanced_folds(Labels(jnp.asarray(y), 3), 5, KEY))
    expected = reference.probe(x, y, folds, Probe().ridges, _INVERSE_TEMPERATURES)
    chex.assert_trees_all_close(float(result.value), expected, atol=1e-4)


def test_a_feature_that_does_not_vary_in_the_fit_is_left_out():
    x, y = sample(70)
    x = np.concatenate([4 + x, 3 * np.eye(70)[:, :8]], axis=1)  # eight units, each reached by one image
    folds = np.array(balanced_folds(Labels(jnp.asarray(y), 3), 5, KEY))
    expected = reference.probe(x, y, folds, Probe().ridges, _INVERSE_TEMPERATURES)
    chex.assert_trees_all_close(float(mutual_information(x, y, Probe(), key=KEY).value), expected, atol=1e-5)


@pytest.mark.parametrize("sizes", [(20, 20, 20), (31, 17, 5), (97, 3)])
def test_folds_hold_equal_shares_of_every_class(sizes):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    folds = np.array(balanced_folds(Labels(jnp.asarray(y), len(sizes)), 5, KEY))
    assert set(folds) == set(range(5))
    for members in (np.ones(len(y), bool), *(y == c for c in range(len(sizes)))):
        counts = np.bincount(folds[members], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_folds_are_random_but_for_their_sizes():
    y = Labels(jnp.arange(60) % 3, 3)
    one, again, other = (np.array(balanced_folds(y, 5, jax.random.key(k))) for k in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize(("n", "d", "num_classes"), [(200, 2, 2), (60, 150, 3), (200, 10, 50)])
def test_a_useless_probe_gives_about_0(n, d, num_classes):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, d)), jnp.float32)
    labels = jnp.asarray([rng.permutation(np.arange(n) % num_classes) for _ in range(10)])
    values = jax.jit(jax.vmap(lambda y: Probe()(x, Labels(y, num_classes), KEY).value))(labels)
    # An uncalibrated probe would lose whole nats here. Choosing among candidates on n/5 samples costs about one parameter
    # there, 1 / (2 n/5) nats, and frequencies fitted on 3/5 of the sample a little for every class.
    cost = 5 / (2 * n)
    error = float(jnp.std(values)) / np.sqrt(10)
    assert -cost - 4 * error < jnp.mean(values) < 4 * error


def test_a_perfect_label_gives_nearly_its_entropy():
    y = np.arange(200) % 5
    result = mutual_information(np.eye(5)[y], y, Probe())
    doubt = 1 / 41  # of 40 calibration samples, which the probe's certainty is mixed with
    chex.assert_trees_all_close(result.value, np.log(5) + np.log(1 - doubt + doubt / 5), rtol=1e-3)
    assert result.saturated


def test_linear_but_not_radial_structure_is_seen():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    linear, radial = rng.normal(size=(2, 400, 2))
    linear[:, 0] += 3 * y
    radial /= np.linalg.norm(radial, axis=1, keepdims=True) / (1 + 2 * y[:, None])
    assert mutual_information(linear, y, Probe()).value > 0.35  # truth .43 for two normals 3 deviations apart
    assert mutual_information(radial, y, Probe()).value < 0.02


def test_interval_is_as_wide_as_the_spread_over_samples():
    results = [mutual_information(*sample(300, seed=seed), Probe()) for seed in range(30)]
    spread = np.std([result.value for result in results], ddof=1)
    claimed = np.mean([(result.upper - result.lower) / (2 * 1.96) for result in results])
    # A standard deviation of 30 values is known to 13 %; fits and folds vary too, which the interval leaves out.
    assert 0.6 < claimed / spread < 1.3


@pytest.mark.parametrize("n", [5, 7])
def test_few_samples_do_not_break_it(n):
    x, y = sample(n, num_classes=2)
    result = mutual_information(x, y, Probe())
    assert -5 < result.value < np.log(2) + 1e-4


@pytest.mark.parametrize("ridges", [(), (-1.0,)])
def test_ridges_must_be_numbers_from_0_on(ridges):
    with pytest.raises(ValueError, match="ridges: expected"):
        Probe(ridges=ridges)
