"""What holds for every estimator: one table of estimators crossed with one list of properties."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipjax.estimators import KDE, NWJ, Binned, GaussianChannel, InfoNCE, Labels, Probe, mutual_information
from ipjax.estimators.base import estimate

ESTIMATORS = {
    "kde": KDE(0.05),
    "kde, much noise": KDE(1.0),
    "probe": Probe(),
    "binned": Binned(4),
    "binned, quantile": Binned(4, "quantile"),
    "binned, Miller-Madow": Binned(4, miller_madow=True),
}
CONTINUOUS = [name for name in ESTIMATORS if name != "probe"]  # those that take a floating y
KEY = jax.random.key(7)

every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def sample(n=120, d=2, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    return (rng.normal(size=(n, d)) + y[:, None]).astype(np.float32), y


def symmetric_channel(p, copies=90):
    """One-hot noisy labels and true labels over 10 classes, with exactly the expected counts; truth in nats."""
    table = np.full((10, 10), round(copies * p / 9))
    np.fill_diagonal(table, round(copies * (1 - p)))
    true, noisy = (np.repeat(index.ravel(), table.ravel()) for index in np.indices((10, 10)))
    return np.eye(10, dtype=np.float32)[noisy], true


def pair(n, correlation=0.75, seed=0):
    a, noise = np.random.default_rng(seed).normal(size=(2, n, 1))
    return a.astype(np.float32), (correlation * a + np.sqrt(1 - correlation**2) * noise).astype(np.float32)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "kde"])  # .05 is too little noise for n = 400
def test_independent_data_give_about_0(name):
    rng = np.random.default_rng(0)
    n, num_classes, cells, draws = 400, 4, 4, 20
    x = jnp.asarray(rng.normal(size=(n, 1)), jnp.float32)
    labels = jnp.asarray([rng.permutation(np.arange(n) % num_classes) for _ in range(draws)])
    values = jax.jit(jax.vmap(lambda y: ESTIMATORS[name](x, Labels(y, num_classes), KEY).value))(labels)
    bias = (cells - 1) * (num_classes - 1) / (2 * n)  # of the plug-in; a kernel this wide leaves no more cells
    error = float(jnp.std(values)) / np.sqrt(draws)
    assert abs(float(jnp.mean(values))) < bias + 3 * error


@every_estimator
def test_dependent_data_rise_above_their_shuffles(name):
    x, y = sample()
    shuffles = [np.random.default_rng(s).permutation(y) for s in range(5)]
    null = [mutual_information(x, shuffled, ESTIMATORS[name]).value for shuffled in shuffles]
    assert mutual_information(x, y, ESTIMATORS[name]).value > max(null) + 0.1


@pytest.mark.parametrize("name", CONTINUOUS)  # a probe's folds follow the order of the samples
def test_order_of_samples_does_not_matter(name):
    x, y = sample()
    order = np.random.default_rng(1).permutation(len(x))
    chex.assert_trees_all_close(
        mutual_information(x[order], y[order], ESTIMATORS[name]),
        mutual_information(x, y, ESTIMATORS[name]),
        atol=1e-5,
    )


def test_order_of_samples_changes_a_probe_only_by_its_folds():
    x, y = sample()
    order = np.random.default_rng(1).permutation(len(x))
    keys = jax.random.split(KEY, 20)
    values = np.array([mutual_information(x, y, Probe(), key=key).value for key in keys])
    reordered = mutual_information(x[order], y[order], Probe(), key=KEY).value
    assert abs(reordered - values.mean()) < 4 * values.std(ddof=1)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("numbering", ["other names", "gaps"])
def test_names_of_classes_do_not_matter(name, numbering):
    x, y = sample()
    renamed = {"other names": np.array([2, 0, 3, 1])[y], "gaps": 5 + 10 * y}[numbering]
    chex.assert_trees_all_close(
        mutual_information(x, renamed, ESTIMATORS[name]), mutual_information(x, y, ESTIMATORS[name]), atol=1e-5
    )


def test_gaps_in_the_labels_do_not_matter_to_a_probe():
    x, y = sample()
    chex.assert_trees_all_close(mutual_information(x, 5 + 10 * y, Probe()), mutual_information(x, y, Probe()))


@every_estimator
def test_constant_features_do_not_matter(name):
    x, y = sample()
    padded = np.insert(x, 1, 3.0, axis=1)
    got, expected = (mutual_information(features, y, ESTIMATORS[name]) for features in (padded, x))
    chex.assert_trees_all_close(got, expected, rtol=2e-6)  # sums run in another order


@pytest.mark.parametrize("name", CONTINUOUS)
def test_floating_y_is_symmetric(name):
    a, b = pair(100)
    chex.assert_trees_all_close(
        mutual_information(a, b, ESTIMATORS[name]), mutual_information(b, a, ESTIMATORS[name]), atol=1e-5
    )


@pytest.mark.parametrize("name", ["kde", "probe", "binned"])
@pytest.mark.slow
def test_jit_equals_eager(name):
    x, y = sample()
    labels = Labels(jnp.asarray(y), 4)
    with jax.disable_jit():
        eager = ESTIMATORS[name](jnp.asarray(x), labels, KEY)
    chex.assert_trees_all_close(estimate(ESTIMATORS[name], jnp.asarray(x), labels, KEY), eager, atol=1e-5)


@every_estimator
def test_vmap_over_labels_equals_a_loop(name):
    x, y = sample()
    x, y = jnp.asarray(x), jnp.asarray(y)
    batch = jnp.stack([y, y[::-1], (y + 1) % 4])
    together = jax.jit(jax.vmap(lambda y: ESTIMATORS[name](x, Labels(y, 4), KEY)))(batch)
    for i, labels in enumerate(batch):
        one = estimate(ESTIMATORS[name], x, Labels(labels, 4), KEY)
        chex.assert_trees_all_close(jax.tree.map(lambda part, i=i: part[i], together), one, atol=1e-5)


def test_vmap_over_noise_equals_a_loop():
    x, y = sample()
    noises = [0.01, 0.1, 1.0]
    labels = Labels(jnp.asarray(y), 4)
    together = jax.jit(jax.vmap(lambda noise: KDE(noise)(jnp.asarray(x), labels, KEY).value))(jnp.asarray(noises))
    chex.assert_trees_all_close(
        together, jnp.stack([mutual_information(x, y, KDE(noise)).value for noise in noises]), atol=1e-5
    )


def counting_traces(most):
    """The compiled entry of all estimators, which fails when traced more than `most` times."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(estimate.__wrapped__, most))


@every_estimator
def test_one_trace_a_shape(name):
    entry = counting_traces(1)
    for seed in (1, 2):
        x, y = sample(seed=seed)
        entry.eval_shape(replace(ESTIMATORS[name]), x, Labels(jnp.asarray(y), 4), KEY)  # equal settings, another object
    with pytest.raises(AssertionError, match="traced > 1 times"):
        entry.eval_shape(ESTIMATORS[name], x[:-1], Labels(jnp.asarray(y[:-1]), 4), KEY)


def test_estimators_of_like_settings_do_not_share_compiled_code():
    structures = [jax.tree.structure(estimator) for estimator in (KDE(0.5), GaussianChannel(0.5), InfoNCE(), NWJ())]
    assert len(set(structures)) == 4


def test_a_sweep_over_noise_traces_once():
    x, y = sample()
    entry = counting_traces(1)
    values = [entry(KDE(noise), x, Labels(jnp.asarray(y), 4), KEY).value for noise in (0.01, 1.0)]
    assert values[0] > values[1]


@pytest.mark.parametrize("name", ["probe", "binned, Miller-Madow"])
def test_values_below_0_are_not_clipped(name):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(100, 1)), jnp.float32)
    labels = jnp.asarray([rng.permutation(np.arange(100) % 4) for _ in range(20)])
    values = jax.jit(jax.vmap(lambda y: ESTIMATORS[name](x, Labels(y, 4), KEY).value))(labels)
    assert min(values) < -1e-3


@every_estimator
def test_ceiling_of_labels_is_their_entropy_and_is_not_exceeded(name):
    sizes = np.array([60, 30, 20, 10])
    y, share = np.repeat(np.arange(4), sizes), sizes / 120
    apart = mutual_information(np.float32(100) * np.stack([y // 2, y % 2], axis=1), y, ESTIMATORS[name])
    chex.assert_trees_all_close(apart.ceiling, -np.sum(share * np.log(share)), rtol=1e-6)
    if name != "binned, Miller-Madow":  # whose correction may pass it
        assert apart.value <= apart.ceiling + 1e-5


@pytest.mark.parametrize("name", ["kde", "probe", "binned"])
def test_saturated_where_the_label_is_all_there_and_not_elsewhere(name):
    y = np.arange(120) % 4
    clusters = np.stack([y // 2, y % 2], axis=1)
    noise = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    assert mutual_information(clusters + np.float32(1e-3) * noise, y, ESTIMATORS[name]).saturated
    assert not mutual_information(noise, y, ESTIMATORS[name]).saturated


@pytest.mark.parametrize("name", ["kde", "binned", "binned, quantile"])
def test_ceiling_of_the_input_is_the_logarithm_of_the_sample_size(name):
    x, _ = sample()
    chex.assert_trees_all_close(mutual_information(x, np.arange(120), ESTIMATORS[name]).ceiling, np.log(120), rtol=1e-6)


@pytest.mark.parametrize("edges", ["uniform", "quantile"])
def test_wide_binned_codes_are_all_different_and_say_so(edges):
    x, y = sample(d=200)
    for labels, entropy in ((np.arange(120), np.log(120)), (y, np.log(4))):
        result = mutual_information(x, labels, Binned(edges=edges))
        chex.assert_trees_all_close((result.value, result.ceiling), (entropy, entropy), rtol=1e-6)
        assert result.saturated


@pytest.mark.parametrize(("p", "truth"), [(0.1, 1.7578), (0.3, 1.0326)])
@pytest.mark.parametrize("estimator", [KDE(0.01), Binned()], ids=["kde", "binned"])
def test_symmetric_label_channel(p, truth, estimator):
    x, y = symmetric_channel(p)  # counts are exactly those expected, so there is no sampling error
    chex.assert_trees_all_close(mutual_information(x, y, estimator).value, truth, atol=1e-4)


@pytest.mark.parametrize(("p", "truth"), [(0.1, 1.7578), (0.3, 1.0326)])
def test_symmetric_label_channel_by_a_probe(p, truth):
    x, y = symmetric_channel(p)
    result = mutual_information(x, y, Probe())
    standard_error = (result.upper - result.lower) / (2 * 1.96)
    assert truth - 3 * standard_error < result.value < truth + 3 * standard_error
    assert standard_error < 0.06  # ln ratio of hit to miss, times √(p (1 - p) / n): .044 and .047


@pytest.mark.parametrize(
    ("estimator", "n"), [(KDE(0.05), 2000), (Binned(20, miller_madow=True), 10_000)], ids=["kde", "binned"]
)
def test_bivariate_normal(estimator, n):
    # ln p(a, b) / p(a) p(b) has standard deviation ρ = .75.
    result = mutual_information(*pair(n), estimator)
    assert abs(result.value - 0.4133) < 3 * 0.75 / np.sqrt(n)


@pytest.mark.parametrize("d", [1, 3])
def test_information_adds_up_over_independent_labels(d):
    bits = (np.arange(256)[:, None] >> np.arange(d)) & 1
    x, y = bits.astype(np.float32), bits @ (1 << np.arange(d))
    chex.assert_trees_all_close(mutual_information(x, y, Binned(2)).value, d * np.log(2), rtol=1e-5)


def test_one_dimensional_features_are_one_column():
    x, y = sample(d=1)
    chex.assert_trees_all_equal(mutual_information(x[:, 0], y, KDE()), mutual_information(x, y, KDE()))


def test_integer_labels_of_python_and_jax_are_the_same():
    x, y = sample()
    expected = mutual_information(x, y, KDE())
    chex.assert_trees_all_equal(mutual_information(x.tolist(), y.tolist(), KDE()), expected)
    chex.assert_trees_all_equal(mutual_information(jnp.asarray(x), jnp.asarray(y), KDE()), expected)
    chex.assert_trees_all_equal(mutual_information(x, Labels(jnp.asarray(y), 4), KDE()), expected)


def test_key_draws_the_folds():
    x, y = sample()
    first, again, other = (mutual_information(x, y, Probe(), key=jax.random.key(k)).value for k in (1, 1, 2))
    assert first == again
    assert first != other


def test_differentiable_in_the_features():
    x, y = sample()
    labels = Labels(jnp.asarray(y), 4)
    gradient = jax.jit(jax.grad(lambda x: mutual_information(x, labels, KDE()).value))(jnp.asarray(x))
    chex.assert_tree_all_finite(gradient)
    assert jnp.abs(gradient).max() > 0


def nan_at(index, value=np.nan):
    x, _ = sample()
    x[index, 0] = value
    return x


X, Y = sample()


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (X[:1], Y[:1], "expected at least 2 samples, got 1"),
        (X, Y[:-1], "got 120 and 119"),
        (X, X[:-1], "got 120 and 119"),
        (nan_at(3), Y, r"NaN or infinity in 1 of 120 samples, first \[3\]"),
        (nan_at(4, np.inf), Y, r"NaN or infinity in 1 of 120 samples, first \[4\]"),
        (X, nan_at(5), r"y: expected finite features.*first \[5\]"),
        (X, Y.astype(np.float32), "expected integer labels"),
        (X, Y[:, None], "expected integer labels"),
        (X, Y - 1, "expected labels from 0 on, got -1"),
        (np.ones((120, 3)), Y, "none of the 3 features varies"),
        (X, np.ones((120, 2)), "y: none of the 2 features varies"),
        (X[:, :, None], Y, r"got shape \[120, 2, 1\]; apply a readout"),
        (X.astype(int), Y, "expected floating features, got int"),
    ],
)
def test_data_that_cannot_be_measured(x, y, match):
    with pytest.raises(ValueError, match=match):
        mutual_information(x, y, KDE())


def test_traced_labels_must_carry_their_number_of_classes():
    with pytest.raises(ValueError, match=r"expected ipjax.estimators.Labels\(values, num_classes\)"):
        jax.jit(lambda y: mutual_information(X, y, KDE()))(Y)
    inside = jax.jit(lambda x, y: mutual_information(x, Labels(y, 4), KDE()))(X, Y)
    chex.assert_trees_all_close(inside, mutual_information(X, Y, KDE()), atol=1e-6)


def test_a_probe_needs_labels_that_repeat():
    with pytest.raises(ValueError, match="got floating y; use KDE or Binned"):
        mutual_information(X, X, Probe())
    with pytest.raises(ValueError, match="every sample has a label of its own"):
        mutual_information(X, np.arange(120), Probe())


@pytest.mark.parametrize(
    ("estimator", "settings", "match"),
    [
        (Probe, {"num_folds": 2}, "num_folds: expected at least 3"),
        (Binned, {"num_bins": 1}, "num_bins: expected at least 2, got 1"),
        (Binned, {"edges": "log"}, 'edges: expected "uniform" or "quantile"'),
    ],
)
def test_settings_that_make_no_sense(estimator, settings, match):
    with pytest.raises(ValueError, match=match):
        estimator(**settings)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_of_the_features_does_not_matter(scale):
    expected = mutual_information(X, Y, KDE()).value
    chex.assert_trees_all_close(mutual_information(X * np.float32(scale), Y, KDE()).value, expected, rtol=1e-4)


def test_float64_features_far_from_0_keep_their_information():
    far = X.astype(np.float64) + 1e9
    chex.assert_trees_all_close(mutual_information(far, Y, KDE()).value, mutual_information(X, Y, KDE()).value, rtol=1e-4)


def test_bfloat16_features_are_floating():
    x = jnp.asarray(X, jnp.bfloat16)
    assert mutual_information(x, Y, KDE()).value > 0.3
