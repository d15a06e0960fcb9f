"""The Gaussian channel against its slow reference, the capacity formula, and what its docstring says of bias and bounds."""

import chex
import jax
import jax.numpy as jnp
import kernel_reference as reference
import numpy as np
import pytest

from ipjax.estimators import KDE, GaussianChannel, Labels, mutual_information
from ipjax.estimators.base import estimate
from ipjax.estimators.gaussian import channel_information, few_coordinates
from ipjax.estimators.kde import noise_variance

NOISES = (0.01, 0.05, 0.5)
KEY = jax.random.key(0)


def sample(n=60, d=3, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    return rng.normal(size=(n, d)) * (1 + np.arange(d) % 4) + 0.7 * y[:, None], y


def numbers(result):
    return tuple(float(part) for part in (result.value, result.lower, result.upper, result.ceiling))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("d", "labels"), [(3, "classes"), (200, "classes"), (60, "own label"), (3, "few alike")])
def test_labels_match_the_reference(noise, d, labels):
    x, y = sample(d=d)
    y = {"classes": y, "own label": np.arange(len(x)), "few alike": np.repeat(np.arange(5), [1, 1, 2, 3, 53])}[labels]
    expected = reference.gaussian_channel(x, y, noise)
    chex.assert_trees_all_close(numbers(mutual_information(x, y, GaussianChannel(noise))), expected, rtol=1e-4, atol=1e-4)
    with jax.enable_x64(True):
        chex.assert_trees_all_close(numbers(mutual_information(x, y, GaussianChannel(noise))), expected, rtol=1e-10)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("d", [3, 100])
def test_floating_y_matches_the_reference(noise, d):
    x, _ = sample(d=d)
    y = 5 * x[:, :2] + np.random.default_rng(1).normal(size=(len(x), 2))
    expected = reference.gaussian_channel_continuous(x, y, noise)
    chex.assert_trees_all_close(numbers(mutual_information(x, y, GaussianChannel(noise))), expected, rtol=1e-4, atol=1e-4)
    with jax.enable_x64(True):
        forward = numbers(mutual_information(x, y, GaussianChannel(noise)))
        chex.assert_trees_all_close(forward, expected, rtol=1e-10)
        chex.assert_trees_all_close(numbers(mutual_information(y, x, GaussianChannel(noise))), forward, rtol=1e-10)


def test_parallel_channels_of_known_power_give_their_capacity():
    # Samples whose covariance is exactly diag(4, 1): ½ ln(1 + 4/s²) + ½ ln(1 + 1/s²).
    x = jnp.asarray(np.sqrt(2) * np.array([[2, 0], [-2, 0], [0, 1], [0, -1]]))
    expected = (np.log(1 + 4 / 0.3) + np.log(1 + 1 / 0.3)) / 2
    chex.assert_trees_all_close(channel_information(x / np.sqrt(0.3), jnp.ones(4)), expected, rtol=1e-6)


def test_normal_data_tell_what_the_capacity_formula_says():
    n, deviations = 5_000, np.array([3.0, 1.0, 0.3])
    x = np.random.default_rng(0).normal(size=(n, 3)) * deviations
    share = deviations**2 / float(noise_variance(jnp.asarray(x, jnp.float32), 0.05))
    expected = np.sum(np.log(1 + share)) / 2
    kept = share / (1 + share)
    standard_error = np.sqrt(np.sum(kept**2) / 2 / n)  # a sample variance is known to √(2/n)
    result = mutual_information(x, np.zeros(n, int), GaussianChannel(0.05))  # whose upper is that of every sample on its own
    assert abs(result.upper - expected) < 3 * standard_error + 1e-4
    assert standard_error < 0.02


def test_jointly_normal_sides_give_the_information_of_their_noisy_correlation():
    n, correlation, noise = 20_000, 0.75, 0.1
    a, e = np.random.default_rng(0).normal(size=(2, n, 1))
    b = correlation * a + np.sqrt(1 - correlation**2) * e
    # Both sides have variance 1 and noise s² = noise x median of 2 χ²_1 (.4549).
    seen = correlation / (1 + noise * 2 * 0.4549)
    value = mutual_information(a, b, GaussianChannel(noise)).value
    assert abs(value + np.log(1 - seen**2) / 2) < 3 * seen / np.sqrt(n)
    little_noise = mutual_information(a, b, GaussianChannel(1e-4)).value
    assert abs(little_noise - 0.4133) < 3 * 0.75 / np.sqrt(n)


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_never_below_the_pairwise_lower_bound_on_the_input(noise):
    rng = np.random.default_rng(0)
    clusters = np.eye(3)[np.arange(60) % 3] + 0.01 * rng.normal(size=(60, 3))
    for x in (rng.normal(size=(60, 3)), clusters, rng.standard_t(2, size=(60, 3))):
        channel, kde = (mutual_information(x, np.arange(60), kind(noise)) for kind in (GaussianChannel, KDE))
        assert channel.value == channel.upper
        assert channel.value > kde.lower


def test_bias_on_normal_data_is_what_the_docstring_says():
    n, d, num_classes, draws = 200, 8, 4, 300
    x = jax.random.normal(KEY, (draws, n, d))
    y = Labels(jnp.arange(n) % num_classes, num_classes)
    variance = 0.05 * 2 * 7.3441  # median of χ²_8
    kept = 1 / (1 + variance)
    bias = ((d * kept) ** 2 + d * kept**2 + 2 * d * kept) / (4 * n)
    own = jax.jit(jax.vmap(lambda x: GaussianChannel()(x, Labels.unique(n), KEY).value))(x)
    by_class = jax.jit(jax.vmap(lambda x: GaussianChannel()(x, y, KEY).value))(x)
    truth = d / 2 * np.log(1 + 1 / variance)
    assert abs(jnp.mean(own) - truth + bias) < 0.15 * bias + 3 * jnp.std(own) / np.sqrt(draws)
    assert abs(jnp.mean(by_class) / ((num_classes - 1) * bias) - 1) < 0.15
    assert bias > 0.04


def test_clusters_far_apart_count_as_more_than_their_labels_and_say_so():
    x = np.where(np.arange(100) % 2, 1.0, -1.0)[:, None] + 1e-3 * np.random.default_rng(0).normal(size=(100, 1))
    result = mutual_information(x, np.arange(100) % 2, GaussianChannel(0.01))
    assert result.value > np.log(2)
    assert result.saturated
    assert not mutual_information(x, np.random.default_rng(1).permutation(np.arange(100) % 2), GaussianChannel(0.01)).saturated


def test_coinciding_points_tell_nothing():
    same = estimate(GaussianChannel(), jnp.ones((30, 3)), Labels.unique(30), KEY)
    chex.assert_trees_all_close((same.value, same.upper), (0.0, 0.0), atol=1e-6)


def test_rotation_scale_and_offset_do_not_matter():
    x, y = sample()
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    with jax.enable_x64(True):
        expected = numbers(mutual_information(x, y, GaussianChannel()))
        for other in (x @ rotation, 1e5 * x + 7):
            chex.assert_trees_all_close(numbers(mutual_information(other, y, GaussianChannel())), expected, rtol=1e-9)


def test_few_coordinates_keep_inner_products():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 30)))
    x = x - jnp.mean(x, axis=0)
    few = few_coordinates(x)
    assert few.shape == (7, 7)
    chex.assert_trees_all_close(few @ few.T, x @ x.T, atol=1e-4)


def test_subsamples_of_samples_that_are_their_own_label_keep_them():
    x, _ = sample()
    x = jnp.asarray(x, jnp.float32)
    half = jnp.arange(0, 60, 2)
    of_half = GaussianChannel()(x[half], Labels.unique(60)[half], KEY)
    chex.assert_trees_all_close(of_half.value, of_half.upper, rtol=1e-6)


@pytest.mark.parametrize("noise", [0, -1.0, float("nan"), float("inf")])
def test_noise_must_be_above_0(noise):
    with pytest.raises(ValueError, match="noise: expected"):
        GaussianChannel(noise)
