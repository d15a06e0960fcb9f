"""Matrix-based Rényi information against its slow reference, at every order, and the entropies that are known."""

import chex
import jax
import jax.numpy as jnp
import kernel_reference as reference
import numpy as np
import pytest

from ipjax.estimators import Labels, Renyi, mutual_information
from ipjax.estimators.base import estimate
from ipjax.estimators.renyi import _by_eigenvalues, _by_squares, gaussian_kernel, spectral_entropy

ORDERS = (0.5, 1.0, 1.01, 2.0)
KEY = jax.random.key(0)


def sample(n=60, d=3, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    return rng.normal(size=(n, d)) + 0.7 * y[:, None], y


def equal(y):
    return np.equal.outer(y, y) * 1.0


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("kind", ["classes", "own label", "floating"])
def test_matches_the_reference(alpha, kind):
    x, classes = sample()
    y = {"classes": classes, "own label": np.arange(len(x)), "floating": x[:, :2] ** 2}[kind]
    kernel_x = reference.gaussian_kernel(x, 0.3)
    kernel_y = reference.gaussian_kernel(y, 0.3) if kind == "floating" else equal(y)
    expected = reference.renyi(kernel_x, kernel_y, alpha)
    if kind == "classes" and alpha >= 1:  # single precision does not do for smaller orders
        rounding = 3e-4 if alpha == 1.01 else 1e-5  # which 1 / (1 - α) multiplies
        chex.assert_trees_all_close(mutual_information(x, y, Renyi(alpha, 0.3)).value, expected, rtol=rounding)
    with jax.enable_x64(True):
        result = mutual_information(x, y, Renyi(alpha, 0.3))
    rounding = 1e-9 if alpha >= 1 else 1e-6  # 60 eigenvalues of rounding size have roots of 1e-8
    chex.assert_trees_all_close(float(result.value), expected, rtol=rounding)
    margin = reference.renyi_interval(kernel_x, kernel_y, alpha)
    chex.assert_trees_all_close(
        (float(result.upper - result.value), float(result.value - result.lower)), (margin,) * 2, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("n", [511, 1100])
def test_samples_in_several_blocks_match_the_reference(n):
    x, y = sample(n)
    expected = reference.renyi(reference.gaussian_kernel(x, 0.5), equal(y), 2)
    with jax.enable_x64(True):
        chex.assert_trees_all_close(float(mutual_information(x, y, Renyi()).value), expected, rtol=1e-10)


def test_order_2_by_squares_equals_order_2_by_eigenvalues():
    x, _ = sample()
    with jax.enable_x64(True):
        kernel = gaussian_kernel(jnp.asarray(x), 0.5)
        by_squares = _by_squares(kernel, [kernel], 60)
        chex.assert_trees_all_close(by_squares, _by_eigenvalues(kernel, [kernel], 60, 2.0), rtol=1e-10)


@pytest.mark.parametrize("alpha", ORDERS)
def test_entropy_of_the_identity_is_the_logarithm_of_the_size_and_of_ones_is_0(alpha):
    with jax.enable_x64(True):
        chex.assert_trees_all_close(spectral_entropy(jnp.eye(50) / 50, alpha)[0], np.log(50), rtol=1e-10)
        chex.assert_trees_all_close(spectral_entropy(jnp.ones((50, 50)) / 50, alpha)[0], 0.0, atol=1e-6)
        blocks = jnp.kron(jnp.eye(5), jnp.ones((10, 10))) / 50
        chex.assert_trees_all_close(spectral_entropy(blocks, alpha)[0], np.log(5), rtol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_kernels_that_tell_all_or_none_apart(alpha):
    apart = estimate(Renyi(alpha), 1e3 * jnp.eye(40), Labels.unique(40), KEY)  # σ² is half the distance: exp(-1) between points
    k = np.exp(-1)
    eigenvalues = np.array([1 + 39 * k, *[1 - k] * 39]) / 40
    shannon, collision = -np.sum(eigenvalues * np.log(eigenvalues)), -np.log(np.sum(eigenvalues**2))
    chex.assert_trees_all_close(apart.value, shannon if alpha == 1 else collision, rtol=1e-4)
    chex.assert_trees_all_close(apart.ceiling, np.log(40), rtol=1e-5)
    narrow = estimate(Renyi(alpha, 1e-3), jnp.eye(40), Labels.unique(40), KEY)
    chex.assert_trees_all_close(narrow.value, np.log(40), rtol=1e-4)
    assert narrow.saturated
    assert not apart.saturated
    chex.assert_trees_all_close(estimate(Renyi(alpha), jnp.ones((40, 2)), Labels.unique(40), KEY).value, 0.0, atol=1e-4)


def test_ceiling_of_labels_is_their_entropy_of_that_order_and_is_reached():
    y = np.repeat(np.arange(4), [60, 30, 20, 10])
    share = np.array([60, 30, 20, 10]) / 120
    x = np.eye(4)[y]
    for alpha, entropy in ((2.0, -np.log(np.sum(share**2))), (1.0, -np.sum(share * np.log(share)))):
        result = mutual_information(x, y, Renyi(alpha, 0.01))
        chex.assert_trees_all_close((result.value, result.ceiling), (entropy, entropy), rtol=1e-4)
        assert result.saturated


@pytest.mark.parametrize("d", [2, 20])
def test_independent_labels_give_what_the_docstring_says(d):
    n, num_classes, draws = 200, 4, 200
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, d)), jnp.float32)
    labels = jnp.asarray([rng.permutation(np.arange(n) % num_classes) for _ in range(draws)])
    values = jax.jit(jax.vmap(lambda y: Renyi()(x, Labels(y, num_classes), KEY).value))(labels)
    entropy = Renyi()(x, Labels.unique(n), KEY).value
    expected = (num_classes - 1) * (jnp.exp(entropy) - 1) / n
    assert abs(jnp.mean(values) - expected) < 0.1 * expected + 3 * jnp.std(values) / np.sqrt(draws)
    assert expected > 0.03


def test_interval_is_as_wide_as_the_spread_over_samples():
    keys = jax.random.split(KEY, 200)
    y = Labels(jnp.arange(200) % 2, 2)

    def draw(key):
        x = jax.random.normal(key, (200, 2)) + 1.5 * y.values[:, None]
        return Renyi()(x, y, KEY)

    results = jax.jit(jax.vmap(draw))(keys)
    claimed = jnp.mean(results.upper - results.value) / 1.96
    # 200 values know a standard deviation to 5 %; the width varies too, and the sizes of the classes do not.
    assert 0.7 < claimed / jnp.std(results.value) < 1.3


def test_channels_with_a_width_each_match_the_product_of_their_kernels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3, 2, 5)) * np.array([1, 10, 0.1, 3, 1])
    y = np.arange(40) % 4
    expected = reference.renyi(reference.gaussian_kernel(x, 2.0), equal(y), 2)
    with jax.enable_x64(True):
        value = float(estimate(Renyi(width=2.0), jnp.asarray(x), Labels(jnp.asarray(y), 4), KEY).value)
        flat = float(estimate(Renyi(width=2.0), jnp.asarray(x.reshape(40, -1)), Labels(jnp.asarray(y), 4), KEY).value)
    chex.assert_trees_all_close(value, expected, rtol=1e-10)
    assert abs(flat - value) > 1e-3


def test_many_channels_saturate():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 2, 2, 64)), jnp.float32)
    assert estimate(Renyi(), x, Labels.unique(50), KEY).saturated
    assert not estimate(Renyi(), x.reshape(50, -1), Labels.unique(50), KEY).saturated


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_rotation_scale_offset_and_order_of_samples_do_not_matter(alpha):
    x, y = sample()
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    order = np.random.default_rng(1).permutation(60)
    with jax.enable_x64(True):
        expected = mutual_information(x, y, Renyi(alpha))
        for other, labels in ((x @ rotation, y), (1e5 * x + 7, y), (x[order], y[order])):
            chex.assert_trees_all_close(mutual_information(other, labels, Renyi(alpha)), expected, rtol=1e-8)


def test_eigenvalues_of_too_many_samples_are_refused():
    many = (jax.ShapeDtypeStruct((4097, 2), jnp.float32), Labels.unique(4097), KEY)
    with pytest.raises(ValueError, match=r"expected at most 4096 samples for eigenvalues.*got 4097; use alpha=2"):
        jax.eval_shape(Renyi(1.01), *many)
    assert jax.eval_shape(Renyi(2.0), *many).value.shape == ()


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"alpha": 0}, "alpha: expected"), ({"alpha": -1.0}, "alpha: expected"), ({"alpha": float("inf")}, "alpha: expected"),
     ({"width": 0.0}, "width: expected"), ({"width": float("nan")}, "width: expected")],
)  # fmt: skip
def test_settings_that_make_no_sense(settings, match):
    with pytest.raises(ValueError, match=match):
        Renyi(**settings)
