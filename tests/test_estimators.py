"""What holds for every estimator: one table of estimators crossed with one list of properties."""

from dataclasses import replace
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

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
    Renyi,
    Ross,
    mutual_information,
)
from ipjax.estimators.base import estimate

SMALL = Critic(hidden=8, embedding=4, num_steps=100, num_folds=3)
ESTIMATORS = {
    "kde": KDE(0.05),
    "kde, much noise": KDE(1.0),
    "probe": Probe(),
    "binned": Binned(4),
    "binned, quantile": Binned(4, "quantile"),
    "binned, Miller-Madow": Binned(4, miller_madow=True),
    "gaussian channel": GaussianChannel(0.5),
    "renyi": Renyi(width=1.0),
    "ross": Ross(),
    "ksg": KSG(),
    "infonce": InfoNCE(SMALL),
    "nwj": NWJ(SMALL),
    "donsker-varadhan": DonskerVaradhan(SMALL),
    "smile": SMILE(critic=SMALL),
}
VARIATIONAL = ("infonce", "nwj", "donsker-varadhan", "smile")
SLOW = VARIATIONAL[1:]  # they compile for seconds, and differ from the first by one formula
KEY = jax.random.key(7)


def table(*, without=(), of=tuple(ESTIMATORS), slow=SLOW):
    """The rows of the table, or some of them, as a test's parameter `name`."""
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in of}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in of if name not in without])


LABELLED = tuple(name for name in ESTIMATORS if name != "ksg")  # those that take labels,
CONTINUOUS = tuple(name for name in ESTIMATORS if name not in ("probe", "ross"))  # and those that take a floating y
FOLDED = ("probe", *VARIATIONAL)  # whose folds and critics follow the order of samples, classes and sides


def sample(n=120, d=2, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    return (rng.normal(size=(n, d)) + y[:, None]).astype(np.float32), y


def data_for(name, seed=0):
    """x, and labels where the estimator takes them, else a floating y."""
    x, y = sample(seed=seed)
    if name in LABELLED:
        return x, y
    return x, (y[:, None] + np.random.default_rng(seed + 100).normal(size=(len(x), 1))).astype(np.float32)


def as_argument(y):
    return Labels(jnp.asarray(y), 4) if y.ndim == 1 else jnp.asarray(y)


def symmetric_channel(p, copies=90):
    """One-hot noisy labels and true labels over 10 classes, with exactly the expected counts; truth in nats."""
    table = np.full((10, 10), round(copies * p / 9))
    np.fill_diagonal(table, round(copies * (1 - p)))
    true, noisy = (np.repeat(index.ravel(), table.ravel()) for index in np.indices((10, 10)))
    return np.eye(10, dtype=np.float32)[noisy], true


def pair(n, correlation=0.75, seed=0):
    a, noise = np.random.default_rng(seed).normal(size=(2, n, 1))
    return a.astype(np.float32), (correlation * a + np.sqrt(1 - correlation**2) * noise).astype(np.float32)


@cache
def independent_values(name, n=400, draws=20):
    """Estimates for one x of one feature and shuffles of four equal classes (of a normal y for KSG)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, 1)), jnp.float32)
    y = np.arange(n) % 4 if name in LABELLED else rng.normal(size=(n, 1)).astype(np.float32)
    batch = jnp.asarray(np.stack([rng.permutation(y) for _ in range(draws)]))
    return np.asarray(jax.jit(jax.vmap(lambda y: ESTIMATORS[name](x, as_argument(y), KEY).value))(batch))


@table(without=("kde",), slow=VARIATIONAL)  # whose .05 is too little noise for n = 400; critics have their own such test
def test_independent_data_give_about_0(name):
    values = independent_values(name)
    bias = (4 - 1) * (4 - 1) / (2 * 400)  # of the plug-in in 4 cells; kernels and covariances this wide leave no more
    assert abs(np.mean(values)) < bias + 3 * np.std(values) / np.sqrt(len(values))


@table(of=("probe", "binned, Miller-Madow", "ross", "ksg", *VARIATIONAL), slow=VARIATIONAL)  # the others cannot be below 0
def test_values_below_0_are_not_clipped(name):
    assert min(independent_values(name)) < -1e-3


@table(slow=VARIATIONAL)
def test_dependent_data_rise_above_their_shuffles(name):
    x, y = data_for(name)
    shuffles = [np.random.default_rng(s).permutation(y) for s in range(5)]
    null = [mutual_information(x, shuffled, ESTIMATORS[name]).value for shuffled in shuffles]
    assert mutual_information(x, y, ESTIMATORS[name]).value > max(null) + 0.1


@table(without=FOLDED)
def test_order_of_samples_does_not_matter(name):
    x, y = data_for(name)
    order = np.random.default_rng(1).permutation(len(x))
    chex.assert_trees_all_close(
        mutual_information(x[order], y[order], ESTIMATORS[name]),
        mutual_information(x, y, ESTIMATORS[name]),
        atol=1e-5,
    )


@table(of=FOLDED)
def test_order_of_samples_changes_what_has_folds_only_by_these(name):
    x, y = sample()
    order = np.random.default_rng(1).permutation(len(x))
    keys = jax.random.split(KEY, 20)
    values = np.array([mutual_information(x, y, ESTIMATORS[name], key=key).value for key in keys])
    reordered = mutual_information(x[order], y[order], ESTIMATORS[name], key=KEY).value
    assert abs(reordered - values.mean()) < 4 * values.std(ddof=1)


@table(of=FOLDED)
def test_key_draws_what_is_random(name):
    x, y = sample()
    first, again, other = (mutual_information(x, y, ESTIMATORS[name], key=jax.random.key(k)) for k in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    assert first.value != other.value


@table(of=tuple(name for name in LABELLED if name not in FOLDED))
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


@table()
def test_constant_features_do_not_matter(name):
    x, y = data_for(name)
    at = 2 if name in VARIATIONAL else 1  # a critic's random weights follow the position of the features
    padded = np.insert(x, [at] * 3, 3.0, axis=1)
    got, expected = (mutual_information(features, y, ESTIMATORS[name]) for features in (padded, x))
    # Sums run in another order, which 100 steps of training multiply.
    chex.assert_trees_all_close(got, expected, rtol=1e-3 if name in VARIATIONAL else 2e-6)


@table(of=tuple(name for name in CONTINUOUS if name not in VARIATIONAL))
def test_floating_y_is_symmetric(name):
    a, b = pair(100)
    chex.assert_trees_all_close(
        mutual_information(a, b, ESTIMATORS[name]), mutual_information(b, a, ESTIMATORS[name]), atol=1e-5
    )


@table(of=tuple(name for name in CONTINUOUS if name not in VARIATIONAL))
def test_constant_features_of_a_floating_y_do_not_matter(name):
    a, b = pair(100)
    got, expected = (mutual_information(a, y, ESTIMATORS[name]) for y in (np.insert(b, [0] * 3, 3.0, axis=1), b))
    chex.assert_trees_all_close(got, expected, rtol=2e-6)


@table(of=("kde", "probe", "binned", "gaussian channel", "renyi", "ross", "ksg"))
@pytest.mark.slow
def test_jit_equals_eager(name):
    x, y = data_for(name)
    with jax.disable_jit():
        eager = ESTIMATORS[name](jnp.asarray(x), as_argument(y), KEY)
    chex.assert_trees_all_close(estimate(ESTIMATORS[name], jnp.asarray(x), as_argument(y), KEY), eager, atol=1e-5)


@table()
def test_vmap_over_y_equals_a_loop(name):
    x, y = (jnp.asarray(side) for side in data_for(name))
    batch = jnp.stack([y, y[::-1], (y + 1) % 4])
    together = jax.jit(jax.vmap(lambda y: ESTIMATORS[name](x, as_argument(y), KEY)))(batch)
    for i, one_y in enumerate(batch):
        one = estimate(ESTIMATORS[name], x, as_argument(one_y), KEY)
        part = jax.tree.map(lambda part, i=i: part[i], together)
        chex.assert_trees_all_close(part, one, atol=1e-3 if name in VARIATIONAL else 1e-5)


SWEEPS = pytest.mark.parametrize(("kind", "setting"), [(KDE, "noise"), (GaussianChannel, "noise"), (Renyi, "width")])


@SWEEPS
def test_vmap_over_a_continuous_setting_equals_a_loop(kind, setting):
    x, y = sample()
    values = [0.01, 0.1, 1.0]
    labels = Labels(jnp.asarray(y), 4)
    together = jax.jit(jax.vmap(lambda value: kind(**{setting: value})(jnp.asarray(x), labels, KEY).value))(jnp.asarray(values))
    expected = [mutual_information(x, y, kind(**{setting: value})).value for value in values]
    chex.assert_trees_all_close(together, jnp.stack(expected), atol=1e-5)


def counting_traces(most):
    """The compiled entry of all estimators, which fails when traced more than `most` times."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(estimate.__wrapped__, most))


@table()
def test_one_trace_a_shape(name):
    entry = counting_traces(1)
    for seed in (1, 2):
        x, y = data_for(name, seed=seed)
        entry.eval_shape(replace(ESTIMATORS[name]), x, as_argument(y), KEY)  # equal settings, another object
    with pytest.raises(AssertionError, match="traced > 1 times"):
        entry.eval_shape(ESTIMATORS[name], x[:-1], as_argument(y[:-1]), KEY)


def test_estimators_of_like_settings_do_not_share_compiled_code():
    structures = [jax.tree.structure(estimator) for estimator in (KDE(0.5), GaussianChannel(0.5), InfoNCE(), NWJ())]
    assert len(set(structures)) == 4


@SWEEPS
def test_a_sweep_over_a_continuous_setting_traces_once(kind, setting):
    x, y = sample()
    entry = counting_traces(1)
    values = [entry(kind(**{setting: value}), x, Labels(jnp.asarray(y), 4), KEY).value for value in (0.01, 1.0)]
    assert values[0] > values[1]


SIZES = np.array([60, 30, 20, 10])
CEILINGS = {  # of four classes of these sizes, where it is not their entropy
    "renyi": -np.log(np.sum((SIZES / 120) ** 2)),
    "ross": digamma(120) - np.sum(SIZES / 120 * digamma(SIZES)),
}
PAST_THE_CEILING = ("binned, Miller-Madow", "gaussian channel", "nwj", "donsker-varadhan", "smile")  # as their docstrings say


@table(of=LABELLED)
def test_ceiling_of_labels_is_their_entropy_and_is_not_exceeded(name):
    y = np.repeat(np.arange(4), SIZES)
    apart = mutual_information(np.float32(100) * np.stack([y // 2, y % 2], axis=1), y, ESTIMATORS[name])
    entropy = -np.sum(SIZES / 120 * np.log(SIZES / 120))
    chex.assert_trees_all_close(apart.ceiling, CEILINGS.get(name, entropy), rtol=1e-6)
    if name not in PAST_THE_CEILING:
        assert apart.value <= apart.ceiling + 1e-5


@table(of=("kde", "probe", "binned", "ross"))
def test_saturated_where_the_label_is_all_there_and_not_elsewhere(name):
    y = np.arange(120) % 4
    clusters = np.stack([y // 2, y % 2], axis=1)
    noise = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    assert mutual_information(clusters + np.float32(1e-3) * noise, y, ESTIMATORS[name]).saturated
    assert not mutual_information(noise, y, ESTIMATORS[name]).saturated


@table(of=("kde", "binned", "binned, quantile", "gaussian channel", "renyi"))
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


@table(of=("probe", "ross", *VARIATIONAL))
def test_what_holds_samples_out_or_looks_within_classes_needs_labels_that_repeat(name):
    with pytest.raises(ValueError, match=r"every sample has a label of its own, so none .*; use KDE"):
        mutual_information(X, np.arange(120), ESTIMATORS[name])


@table(of=tuple(name for name in ESTIMATORS if name not in CONTINUOUS or name not in LABELLED))
def test_the_other_kind_of_y_is_refused_with_what_takes_it(name):
    y, match = (X, "expected integer labels.*, got floating y; use K") if name in LABELLED else (Y, "got labels; use Ross")
    with pytest.raises(ValueError, match=match):
        mutual_information(X, y, ESTIMATORS[name])


TOO_FEW = {
    "probe": "Probe: expected at least 5 samples, one in each fold, got {}",
    "ross": "expected fewer than the {} samples, got 3; take fewer neighbours",
    "ksg": "expected fewer than the {} samples, got 3; take fewer neighbours",
    **dict.fromkeys(VARIATIONAL, "expected at least 6 samples, 2 in each of 3 folds, got {}; use more"),
}


@table()
@pytest.mark.parametrize("n", [2, 3])
def test_very_few_samples(name, n):
    x, y = X[:n], np.zeros(n, int) if name in LABELLED else X[:n, :1]
    if name in TOO_FEW:
        with pytest.raises(ValueError, match=TOO_FEW[name].format(n)):
            mutual_information(x, y, ESTIMATORS[name])
    else:
        chex.assert_trees_all_close(mutual_information(x, y, ESTIMATORS[name]).value, 0.0, atol=1e-5)


def few_samples(kind):
    """x [16, 2] and a y of the kind, in double precision."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 2))
    return x, {"labels": np.arange(16) % 4, "own label": np.arange(16), "floating": x[:, :1] + rng.normal(size=(16, 1))}[kind]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] if name in SLOW or name in VARIATIONAL or kind != least else [])
        for name in ESTIMATORS
        for least in (["labels"] if name in LABELLED else ["floating"])
        for kind in ("labels", "own label", "floating")
        if (name in CONTINUOUS if kind == "floating" else name in LABELLED)
        if not (kind == "own label" and name in ("probe", "ross", *VARIATIONAL))
    ],
)
def test_degenerate_data_give_a_finite_number_between_its_bounds(name, kind):
    x, y = few_samples(kind)
    index = np.arange(16)
    twice = index // 2
    cases = {
        "a constant feature": (np.insert(x[:, :1], 1, 3.0, axis=1), y),
        "every point twice": (x[twice], y if kind == "own label" else y[twice]),
        "two points": (x[index % 2], y),
        "all points but one alike": (x[1 * (index == 3)], y),
        "a point far out": (np.where((index == 3)[:, None], 1e8 * x, x), y),
        "features of very different scale": (x * np.array([1, 1e20]), y),
    }
    if kind == "labels":
        cases["one class"] = x, np.zeros(16, int)
        cases["classes of one"] = x, np.minimum(index, 3)
        cases["nearly every label its own"] = x, np.maximum(index - 1, 0)
    for case, (a, b) in cases.items():
        result = mutual_information(a, b, ESTIMATORS[name])
        assert np.isfinite(result.value) and not np.isnan(result.ceiling), case
        assert result.lower - 1e-5 <= result.value <= result.upper + 1e-5, case
        if case in ("a constant feature", "one class"):
            chex.assert_tree_all_finite((result.lower, result.upper))
        if case == "one class":
            chex.assert_trees_all_close((result.value, result.ceiling), (0.0, 0.0), atol=1e-5)


@table()
def test_scale_precision_and_layout_of_the_data_do_not_matter(name):
    x, y = few_samples("labels" if name in LABELLED else "floating")
    x = x.astype(np.float16).astype(np.float64)
    expected = mutual_information(x, y, ESTIMATORS[name])
    for other in (x.astype(np.float16), x * 2.0**100, x * 2.0**-100, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        chex.assert_trees_all_equal(mutual_information(other, y, ESTIMATORS[name]), expected)


@pytest.mark.parametrize(
    ("estimator", "settings", "match"),
    [
        (Probe, {"num_folds": 2}, "num_folds: expected at least 3"),
        (Binned, {"num_bins": 1}, "num_bins: expected from 2 to 65536, got 1"),
        (Binned, {"edges": "log"}, 'edges: expected "uniform" or "quantile"'),
    ],
)
def test_settings_that_make_no_sense(estimator, settings, match):
    with pytest.raises(ValueError, match=match):
        estimator(**settings)


def test_float64_features_far_from_0_keep_their_information():
    far = X.astype(np.float64) + 1e9
    chex.assert_trees_all_close(mutual_information(far, Y, KDE()).value, mutual_information(X, Y, KDE()).value, rtol=1e-4)


def test_bfloat16_features_are_floating():
    x = jnp.asarray(X, jnp.bfloat16)
    assert mutual_information(x, Y, KDE()).value > 0.3


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (Labels(Y, 3), "Labels: expected values from 0 to 2, got 0 to 3"),
        (Labels(Y - 1, 4), "got -1 to 2"),
        (Labels(Y.astype(float), 4), "Labels: expected integers"),
        (Labels(Y, 4, distinct=True), "says that all labels differ, but some are equal"),
    ],
)
def test_labels_that_do_not_keep_their_word(labels, match):
    with pytest.raises(ValueError, match=match):
        mutual_information(X, labels, KDE())


@pytest.mark.parametrize("far", [1e8, -1e12])
def test_a_column_far_away_does_not_hide_the_others(far):
    apart = np.float64(X)
    expected = mutual_information(apart, Y, Ross()).value
    chex.assert_trees_all_close(mutual_information(apart + np.array([0, far]), Y, Ross()).value, expected, atol=0.02)


@pytest.mark.parametrize("number", [np.array(-1.0), jnp.array(0.0), np.array([0.1, np.nan])])
def test_settings_in_arrays_are_checked(number):
    for make in (KDE, GaussianChannel, Renyi):
        with pytest.raises(ValueError, match="expected a finite number above 0"):
            make(**{"width" if make is Renyi else "noise": number})


def test_masked_features_are_refused():
    with pytest.raises(ValueError, match="masked"):
        mutual_information(np.ma.masked_array(X, X > 1), Y, KDE())
