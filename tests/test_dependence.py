"""HSIC and CKA against their slow reference, in every block and kernel, and what they are known to keep."""

import chex
import jax
import jax.numpy as jnp
import kernel_reference as reference
import numpy as np
import pytest

from ipjax.estimators import CKA, HSIC, Labels
from ipjax.estimators.dependence import _COLUMNS, cross_norm, hsic, linear_hsic

WIDTH = 0.4
KINDS = [(kernel, unbiased) for kernel in ("linear", "gaussian") for unbiased in (False, True)]
every_kind = pytest.mark.parametrize(("kernel", "unbiased"), KINDS)


def sample(n=50, dx=3, dy=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dx)) + 2
    return x, x[:, :1] ** 2 + rng.normal(size=(n, dy))


def grams(x, y, kernel):
    one_hot = np.eye(y.max() + 1)[y] if y.ndim == 1 else None
    k, l = (  # noqa: E741
        side @ side.T if kernel == "linear" else reference.gaussian_kernel(side, WIDTH)
        for side in (x, y if one_hot is None else one_hot)
    )
    return k, l if one_hot is None else one_hot @ one_hot.T


def literal(x, y, kernel, unbiased):
    of = reference.hsic_unbiased if unbiased else reference.hsic_biased
    k, l = grams(x, y, kernel)  # noqa: E741
    return of(k, l), of(k, l) / np.sqrt(of(k, k) * of(l, l))


@every_kind
@pytest.mark.parametrize("sides", ["few features", "labels"])
def test_matches_the_reference(kernel, unbiased, sides):
    x, y = sample()
    y = np.arange(50) % 3 if sides == "labels" else y
    expected_hsic, expected_cka = literal(x, y, kernel, unbiased)
    with jax.enable_x64(True):
        chex.assert_trees_all_close(float(HSIC(kernel, unbiased, WIDTH)(x, y)), expected_hsic, rtol=1e-9)
        chex.assert_trees_all_close(float(CKA(kernel, unbiased, WIDTH)(x, y)), expected_cka, rtol=1e-9)
    if sides == "few features" and unbiased:
        chex.assert_trees_all_close(float(HSIC(kernel, unbiased, WIDTH)(x, y)), expected_hsic, rtol=1e-5)
        chex.assert_trees_all_close(float(CKA(kernel, unbiased, WIDTH)(x, y)), expected_cka, rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_wide_kernels_need_no_double_precision(unbiased):
    x, y = sample(400)
    k, l = (reference.gaussian_kernel(side, 1000.0) for side in (x, y))  # noqa: E741
    of = reference.hsic_unbiased if unbiased else reference.hsic_biased
    chex.assert_trees_all_close(float(HSIC("gaussian", unbiased, 1000.0)(x, y)), of(k, l), rtol=1e-3)


@pytest.mark.parametrize("unbiased", [False, True])
def test_more_features_than_samples_match_the_reference(unbiased):
    x, y = sample(dx=120, dy=130)
    with jax.enable_x64(True):
        expected = literal(x, y, "linear", unbiased)[0]
        chex.assert_trees_all_close(float(HSIC("linear", unbiased)(x, y)), expected, rtol=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_rows_and_columns_give_the_same_in_blocks_of_every_kind(unbiased):
    x, y = sample(n=700, dx=_COLUMNS + 5, dy=2)
    with jax.enable_x64(True):
        x, y = jnp.asarray(x), jnp.asarray(y)
        by_rows = hsic(lambda rows: x[rows] @ x.T, lambda rows: y[rows] @ y.T, 700, unbiased)
        chex.assert_trees_all_close(linear_hsic(x, y, unbiased), by_rows, rtol=1e-8)
        chex.assert_trees_all_close(cross_norm(x, y), jnp.sum((x.T @ y) ** 2), rtol=1e-12)


@every_kind
def test_cka_of_a_rotated_scaled_and_shifted_copy_is_1(kernel, unbiased):
    x, y = sample()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    measure = CKA(kernel, unbiased)
    chex.assert_trees_all_close(measure(x, 100 * x @ rotation - 7), 1.0, atol=1e-4)
    chex.assert_trees_all_close(measure(100 * x @ rotation - 7, y), measure(x, y), atol=1e-4)
    assert measure(x, x * np.array([1, 10, 0.1])) < 0.95  # scaled apart


@every_kind
def test_order_of_samples_and_of_sides_does_not_matter(kernel, unbiased):
    x, y = sample()
    order = np.random.default_rng(1).permutation(len(x))
    for measure in (HSIC(kernel, unbiased), CKA(kernel, unbiased)):
        chex.assert_trees_all_close(measure(x[order], y[order]), measure(x, y), rtol=1e-3)
        chex.assert_trees_all_close(measure(y, x), measure(x, y), rtol=1e-3)


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_independent_data_give_0_on_average_only_unbiased(kernel):
    draws = 200
    x, y = jax.random.normal(jax.random.key(0), (2, draws, 30, 4))
    biased, unbiased = (jax.jit(jax.vmap(HSIC(kernel, unbiased)))(x, y) for unbiased in (False, True))
    assert abs(jnp.mean(unbiased)) < 3 * jnp.std(unbiased) / np.sqrt(draws)
    assert jnp.min(unbiased) < 0
    assert jnp.min(biased) > 0
    assert jnp.mean(biased) > 10 * jnp.std(biased) / np.sqrt(draws)


def test_cka_of_independent_wide_features_is_high_unless_unbiased():
    x, y = np.random.default_rng(0).normal(size=(2, 40, 500))
    assert CKA(unbiased=False)(x, y) > 0.8
    assert abs(CKA(unbiased=True)(x, y)) < 0.1


def test_linear_hsic_is_the_squared_covariance_in_units_of_the_features():
    x, y = sample(dx=1, dy=1)
    expected = np.cov(x[:, 0], y[:, 0])[0, 1] ** 2
    chex.assert_trees_all_close(float(HSIC(unbiased=False)(x, y)), expected, rtol=1e-4)
    chex.assert_trees_all_close(float(HSIC(unbiased=False)(10 * x, y)), 100 * expected, rtol=1e-4)
    chex.assert_trees_all_close(float(HSIC(unbiased=False)(x[:, 0], y)), expected, rtol=1e-4)


def test_the_gaussian_kernel_sees_what_the_linear_one_does_not():
    x = np.random.default_rng(0).normal(size=(400, 1))
    y = x**2 + 0.1 * np.random.default_rng(1).normal(size=(400, 1))
    assert CKA("gaussian")(x, y) > 0.2
    assert CKA("linear")(x, y) < 0.05


def test_labels_of_the_same_classes_have_cka_1_with_themselves_and_names_do_not_matter():
    y = np.arange(60) % 3
    chex.assert_trees_all_close(CKA()(np.eye(3)[y], y), 1.0, atol=1e-5)
    x, _ = sample(60)
    for names in (5 + 10 * y, 2 - y, Labels(jnp.asarray(y), 3)):
        chex.assert_trees_all_close(CKA()(x, names), CKA()(x, y), rtol=1e-4)


def test_jit_equals_eager_and_a_sweep_over_width_traces_once():
    x, y = (jnp.asarray(side, jnp.float32) for side in sample())
    chex.clear_trace_counter()
    entry = jax.jit(chex.assert_max_traces(lambda measure, x, y: measure(x, y), 1))
    for width in (0.2, 1.0):
        chex.assert_trees_all_close(entry(HSIC("gaussian", width=width), x, y), HSIC("gaussian", width=width)(x, y), rtol=1e-3)
    with jax.disable_jit():
        eager = CKA()(x, y)
    chex.assert_trees_all_close(CKA()(x, y), eager, atol=1e-4)


X, Y = sample()


@pytest.mark.parametrize("measure", [HSIC, CKA])
@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (np.where(X[3] == X, np.nan, X), Y, r"NaN or infinity in 1 of 50 samples, first \[3\]"),
        (np.ones((50, 2)), Y, "none of the 2 features varies"),
        (X, Y[:-1], "got 50 and 49"),
        (X, Y[:, 0], "expected integer labels"),
        (X[:3], Y[:3], "unbiased: expected at least 4 samples, got 3"),
    ],
)
def test_data_that_cannot_be_measured(measure, x, y, match):
    with pytest.raises(ValueError, match=match):
        measure()(x, y)


def test_labels_of_one_class_have_no_covariance_and_no_alignment():
    one = np.zeros(50, int)
    assert HSIC()(X, one) == 0
    with pytest.raises(ValueError, match=r"CKA: expected both sides to depend on themselves, got HSIC .* and 0 of y"):
        CKA()(X, one)


def test_two_samples_and_duplicates():
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])
    chex.assert_trees_all_close(HSIC(unbiased=False)(x, y), 2.0**2 * 4.0**2 / 4, rtol=1e-5)  # covariance 4
    chex.assert_trees_all_close(CKA(unbiased=False)(x, y), 1.0, rtol=1e-5)
    twice = np.repeat(X, 2, axis=0)
    chex.assert_trees_all_close(CKA(unbiased=False)(twice, np.repeat(Y, 2, axis=0)), CKA(unbiased=False)(X, Y), rtol=1e-4)


def test_constant_columns_and_large_offsets_do_not_matter():
    padded = np.insert(X, 1, 3.0, axis=1)
    chex.assert_trees_all_close(HSIC()(padded, Y), HSIC()(X, Y), rtol=1e-4)
    chex.assert_trees_all_close(HSIC()(X + 1e6, Y), HSIC()(X, Y), rtol=1e-4)


def test_features_too_large_for_their_precision_are_refused():
    with pytest.raises(ValueError, match="too large for their precision; rescale"):
        HSIC()(1e20 * X, Y)
    chex.assert_trees_all_close(CKA()(1e20 * X, Y), CKA()(X, Y), rtol=1e-4)


@pytest.mark.parametrize("measure", [HSIC, CKA])
@pytest.mark.parametrize(("settings", "match"), [({"kernel": "rbf"}, "kernel: expected"), ({"width": 0.0}, "width: expected")])
def test_settings_that_make_no_sense(measure, settings, match):
    with pytest.raises(ValueError, match=match):
        measure(**settings)
