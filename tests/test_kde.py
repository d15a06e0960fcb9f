"""KDE against its slow reference, in blocks of every kind, at both precisions."""

import chex
import estimator_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipjax.estimators import KDE, Labels, mutual_information
from ipjax.estimators.base import estimate
from ipjax.estimators.kde import _median, by_rows, noise_variance, squared_distances

NOISES = (0.01, 0.05, 0.5)


def sample(n=60, d=3, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % num_classes
    return rng.normal(size=(n, d)) + 0.7 * y[:, None], y


def numbers(result):
    return tuple(float(part) for part in (result.value, result.lower, result.upper))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("own_label", [False, True], ids=["classes", "own label"])
def test_labels_match_the_reference(noise, own_label):
    x, y = sample()
    y = np.arange(len(x)) if own_label else y
    expected = reference.kde(x, y, noise)
    chex.assert_trees_all_close(numbers(mutual_information(x, y, KDE(noise))), expected, rtol=1e-4, atol=1e-4)
    with jax.enable_x64(True):
        chex.assert_trees_all_close(numbers(mutual_information(x, y, KDE(noise))), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", NOISES)
def test_floating_y_matches_the_reference(noise):
    x, _ = sample()
    y = x[:, :2] + np.random.default_rng(1).normal(size=(len(x), 2))
    expected = reference.kde_continuous(x, y, noise)
    chex.assert_trees_all_close(numbers(mutual_information(x, y, KDE(noise))), expected, rtol=1e-4, atol=1e-4)
    with jax.enable_x64(True):
        chex.assert_trees_all_close(numbers(mutual_information(x, y, KDE(noise))), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [511, 513, 1100])
def test_samples_in_several_blocks_match_the_reference(n):
    x, y = sample(n)
    with jax.enable_x64(True):
        result = numbers(mutual_information(x, y, KDE()))
    chex.assert_trees_all_close(result, reference.kde(x, y, 0.05), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 511, 512, 513, 1100])
def test_rows_in_blocks_equal_all_rows_at_once(n):
    values = jnp.asarray(np.random.default_rng(n).normal(size=n))

    def function(index):
        return jnp.stack([values[index], 2 * values[index]]), index

    in_blocks = by_rows(function, n)
    chex.assert_trees_all_equal(in_blocks, function(jnp.arange(n)))


@pytest.mark.parametrize("noise", [1e-3, *NOISES, 10.0])
@pytest.mark.parametrize("kind", ["classes", "own label", "floating"])
def test_value_lies_in_the_bracket_below_the_ceiling(noise, kind):
    x, y = sample()
    y = {"classes": y, "own label": np.arange(len(x)), "floating": x[:, :2] ** 2}[kind]
    result = mutual_information(x, y, KDE(noise))
    rounding = 1e-5
    assert result.lower <= result.value + rounding
    assert result.value <= result.upper + rounding
    assert result.value <= result.ceiling + rounding
    if kind == "own label":
        assert result.upper <= np.log(len(x)) + rounding


@pytest.mark.parametrize("num_classes", [3, 40])
def test_shuffled_labels_mapped_in_parallel_match_the_reference(num_classes):
    x, y = sample(120, num_classes=num_classes)
    shuffles = np.stack([np.random.default_rng(seed).permutation(y) for seed in range(3)])
    with jax.enable_x64(True):
        result = jax.vmap(lambda values: KDE()(jnp.asarray(x), Labels(values, num_classes), jax.random.key(0)))(shuffles)
    for i, shuffled in enumerate(shuffles):
        part = jax.tree.map(lambda leaf, i=i: leaf[i], result)
        chex.assert_trees_all_close(numbers(part), reference.kde(x, shuffled, 0.05), rtol=1e-9)


def test_gradient_matches_finite_differences():
    x, y = sample(600)  # in two blocks; the noise's scale changes with x too
    direction = np.random.default_rng(1).normal(size=x.shape)
    with jax.enable_x64(True):
        labels = Labels(jnp.asarray(y), 4)

        def along(t):
            return KDE(0.5)(jnp.asarray(x) + t * direction, labels, jax.random.key(0)).value

        slope = jax.jit(jax.grad(along))(0.0)
        chex.assert_trees_all_close(slope, (along(1e-6) - along(-1e-6)) / 2e-6, rtol=1e-5)


def test_a_large_offset_costs_no_accuracy():
    x, y = sample(300)
    x = (x + 1e4).astype(np.float32)
    expected = reference.kde(x, y, 0.05)  # in float64, of the very same numbers
    chex.assert_trees_all_close(numbers(mutual_information(x, y, KDE())), expected, rtol=1e-4)


def test_distances_match_loops_and_vanish_on_the_diagonal():
    x, _ = sample(80)
    rows = jnp.array([5, 0, 79])
    squared = squared_distances(jnp.asarray(x, jnp.float32), rows)
    chex.assert_trees_all_close(squared, reference.squared_distances(x)[np.array(rows)], rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_equal(squared[jnp.arange(3), rows], jnp.zeros(3))


@pytest.mark.parametrize("size", [1, 3, 101, 999])
def test_median_by_halving(size):
    values = np.random.default_rng(size).exponential(size=size).astype(np.float32)
    chex.assert_trees_all_close(_median(jnp.asarray(values)), np.median(values), rtol=1e-6)


def test_median_of_an_even_number_is_the_lower_of_the_middle_two():
    chex.assert_trees_all_close(_median(jnp.array([7.0, 1.0, 2.0, 4.0])), 2.0, rtol=1e-6)


def test_noise_follows_the_scale_of_the_features():
    x, y = sample()
    with jax.enable_x64(True):
        one, thousand = (numbers(mutual_information(scale * x, y, KDE())) for scale in (1.0, 1000.0))
    chex.assert_trees_all_close(one, thousand, rtol=1e-9)


@pytest.mark.parametrize("num_features", [2, 50])
def test_noise_of_mostly_coinciding_points_comes_from_the_mean_distance(num_features):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(1, num_features)), 100, axis=0).astype(np.float32)
    x[80:] = rng.normal(size=(20, num_features))  # 64 % of all pairs coincide
    expected = 0.05 * 2 * x.var(axis=0).sum()
    chex.assert_trees_all_close(noise_variance(jnp.asarray(x), 0.05), expected, rtol=1e-4)


def test_identical_points_tell_nothing():
    x = jnp.ones((30, 3))
    for y in (Labels.unique(30), Labels(jnp.arange(30) % 3, 3), jnp.ones((30, 2))):
        chex.assert_trees_all_close(estimate(KDE(), x, y, jax.random.key(0)).value, 0.0, atol=1e-6)


@pytest.mark.parametrize("num_clusters", [2, 5, 10])
def test_separated_clusters_give_the_logarithm_of_their_number(num_clusters):
    which = np.arange(60) % num_clusters
    x = np.eye(10)[which] + 1e-4 * np.random.default_rng(0).normal(size=(60, 10))
    # At noise .005 neighbouring clusters keep a kernel of exp(-25) in the wider (Bhattacharyya) bound.
    about_input = mutual_information(x, np.arange(len(x)), KDE(0.005))
    chex.assert_trees_all_close(numbers(about_input), (np.log(num_clusters),) * 3, atol=1e-4)
    about_label = mutual_information(x, which, KDE(0.005))
    chex.assert_trees_all_close(numbers(about_label), (np.log(num_clusters),) * 3, atol=1e-4)
    assert about_label.saturated
    assert not about_input.saturated


def test_more_noise_leaves_less():
    x, y = sample()
    values = [mutual_information(x, np.arange(len(x)), KDE(noise)).value for noise in (0.01, 0.1, 1.0, 10.0)]
    assert all(np.diff(values) < 0)
    chex.assert_trees_all_close(mutual_information(x, y, KDE(1e4)).value, 0.0, atol=1e-3)


@pytest.mark.parametrize("noise", [0, -1.0, float("nan")])
def test_noise_must_be_above_0(noise):
    with pytest.raises(ValueError, match="noise: expected"):
        KDE(noise)


def test_the_scale_does_not_depend_on_the_order_of_labels():
    y = np.arange(1000) % 10
    x = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32) + (20 * y * (y % 2))[:, None]
    order = np.random.default_rng(1).permutation(1000)
    in_order, shuffled = (noise_variance(jnp.asarray(values), 0.1) for values in (x, x[order]))
    assert abs(np.log(in_order / shuffled)) < 1.5  # every second sample, all of even labels, would be 7.8 off
