"""What stands beside an estimate: null, p-value, interval, extrapolation, warnings."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from test_estimators import ESTIMATORS, FOLDED, LABELLED

from ipjax import assess, measure_plane, mutual_information
from ipjax.assessment import _measure, assess_checked, few_per_class, spread
from ipjax.estimators import KDE, KSG, Binned, Labels, Probe, Projected, Renyi, Ross
from ipjax.estimators.base import checked, checked_labels, pytree_settings

N, CLASSES = 120, 4
Y = np.arange(N) % CLASSES
KEYS = {"information", "lower", "upper", "ceiling", "saturated", "null", "null_upper", "p_value", "interval_lower"}
KEYS |= {"interval_upper", "extrapolated", "subsamples", "warnings"}


def classes(n=N, d=2, apart=1.0, seed=0):
    """Normal features whose means differ by class."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) + apart * (np.arange(n) % CLASSES)[:, None]).astype(np.float32)


def pairs(n, d, correlation=0.75, seed=0):
    a, noise = np.random.default_rng(seed).normal(size=(2, n, d))
    return a, correlation * a + np.sqrt(1 - correlation**2) * noise


def test_the_numbers_belong_together():
    record = assess(classes(), Y, KDE())
    assert record.keys() == KEYS
    estimate = mutual_information(classes(), Y, KDE())
    got = [record[key] for key in ("information", "lower", "upper", "ceiling")]
    expected = [float(value) for value in (estimate.value, estimate.lower, estimate.upper, estimate.ceiling)]
    chex.assert_trees_all_close(got, expected, atol=1e-5)
    value, halves = record["information"], record["subsamples"]
    assert len(halves) == 10
    assert record["extrapolated"] == pytest.approx(2 * value - np.mean(halves))
    assert record["interval_upper"] - value == pytest.approx(spread(halves)) == value - record["interval_lower"]
    assert record["null"] < record["null_upper"] < value
    assert record["p_value"] == 1 / 20


def test_halves_are_halves():
    shown = []

    @pytree_settings
    class Spy:
        def __call__(self, x, y, key):
            shown.append(len(x))
            return KDE()(x, y, key)

    assess(classes(), Y, Spy())
    assert sorted(set(shown)) == [N // 2, N]


def test_null_is_near_the_value_of_independent_labels():
    rng = np.random.default_rng(1)
    record = assess(rng.normal(size=(N, 2)), rng.permutation(Y), KDE(), num_null=30, num_subsamples=0)
    fresh = [float(mutual_information(rng.normal(size=(N, 2)), rng.permutation(Y), KDE()).value) for _ in range(30)]
    deviation = np.std(fresh, ddof=1)
    assert abs(record["information"] - record["null"]) < 4 * deviation
    # The mean of 30 shuffles still varies with the features, which stay the same, but by less than fresh samples do.
    assert abs(np.mean(fresh) - record["null"]) < 2 * deviation
    assert record["null_upper"] > record["null"]


def test_p_values_of_independent_data_are_uniform():
    rng = np.random.default_rng(2)
    p = [assess(rng.normal(size=(40, 1)), rng.permutation(40) % 4, KDE(), num_subsamples=0)["p_value"] for _ in range(60)]
    # Multiples of 1/20 from 1/20 to 1: mean .525, deviation .288, so .037 of the mean of 60.
    assert abs(np.mean(p) - 0.525) < 4 * 0.037
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=4 * 0.065)


def test_floating_y_is_shuffled_by_rows():
    a, b = pairs(200, 2)
    record = assess(a, b, KSG(), num_subsamples=0)
    assert record["p_value"] == 1 / 20
    assert abs(record["null"]) < 0.1 < record["information"]  # both columns move together, or the null would be the same


def test_interval_is_as_wide_as_the_spread_over_fresh_samples():
    n, samples = 400, 16

    def sample(seed):
        rng = np.random.default_rng(seed)
        y = rng.integers(CLASSES, size=n)
        return rng.normal(size=(n, 2)) + y[:, None], y

    values, margins = [], []
    for seed in range(samples):
        record = assess(*sample(seed), KDE(), num_null=0, num_subsamples=20)
        values.append(record["information"])
        margins.append(record["interval_upper"] - record["information"])
    # The deviation of 16 values is known to 18 %, so a right interval is within a factor 2 by more than three errors.
    assert 0.5 < np.mean(margins) / (1.96 * np.std(values, ddof=1)) < 2


def test_extrapolation_takes_away_a_bias_of_order_1_over_n():
    rng = np.random.default_rng(3)
    records = [assess(rng.normal(size=(240, 1)), Y.repeat(2), Binned(8, "quantile"), num_null=0) for _ in range(60)]
    # 2 n x the plug-in of independent data is chi-squared with 7 x 3 degrees of freedom.
    bias, error = 21 / (2 * 240), np.sqrt(2 * 21) / (2 * 240) / np.sqrt(60)
    plug_in, extrapolated = (np.array([r[key] for r in records]) for key in ("information", "extrapolated"))
    assert abs(plug_in.mean() - bias) < 4 * error
    assert abs(extrapolated.mean()) < 4 * extrapolated.std(ddof=1) / np.sqrt(60) < bias / 2


def test_spread_is_the_half_width_of_an_interval():
    chex.assert_trees_all_close(spread([1.0, 2.0, 3.0]), 4.302653)  # Student's t with 2 degrees of freedom


def test_a_shuffle_of_labels_that_are_all_different_is_not_tried():
    record = assess(classes(), np.arange(N), KDE())
    assert record["null"] is record["null_upper"] is record["p_value"] is None


NORMAL = np.random.default_rng(0).normal(size=(N, 30))


@pytest.mark.parametrize(
    ("x", "y", "estimator", "match"),
    [
        (classes(), Y, KDE(), None),
        (classes(d=1), Y, Ross(), None),
        (classes(80), np.arange(80) % 5, KDE(), "5 of 5 classes have fewer than 20 samples"),
        (classes(), np.zeros(N, int), KDE(), "one class only"),
        (classes(apart=100.0), Y, KDE(), "saturated"),
        (NORMAL[:, :1], Y, Ross(), "not above the null"),
        (np.insert(classes(), 1, 5.0, axis=1), Y, KDE(), "1 of 3 features do not vary"),
        (NORMAL, Y, Ross(), "effective dimension 6 is high for 30 samples"),
        (NORMAL, Y, Projected(Ross(), 20), "effective dimension"),
        (*pairs(N, 1), KSG(), None),
        (*pairs(N, 5), KSG(), "effective dimension"),
        (*(np.round(side) for side in pairs(N, 1)), KSG(), "ties: 100% of the values occur more than once; no interval"),
        (NORMAL[:, :2], Y, Binned(10), "depends on the sample's size"),
        (NORMAL[:8, :1], [0, 0, 0, 0, 0, 0, 1, 1], Ross(), "no interval of the estimator's own"),
    ],
)
def test_warnings(x, y, estimator, match):
    warnings = assess(x, np.asarray(y), estimator, num_null=19)["warnings"]
    assert warnings is None if match is None else match in warnings


def test_unknown_bounds_and_ceilings_are_none():
    record = assess(NORMAL[:8, :1], np.array([0, 0, 0, 0, 0, 0, 1, 1]), Ross(), num_null=0, num_subsamples=0)
    assert record["lower"] is record["upper"] is None


def test_the_same_seed_draws_the_same():
    first, again, other = (assess(classes(), Y, KDE(), seed=seed)["subsamples"] for seed in (1, 1, 2))
    assert first == again != other


def test_a_plane_holds_what_assess_gives():
    (record,) = measure_plane({"layer": classes()}, Y, seed=5).records
    expected = assess(classes(), Y, KDE(), seed=5)
    found = {key: record[f"label_{key}"] for key in KEYS}  # of sums in another order, since the input is asked about as well
    assert found == {key: pytest.approx(value, abs=1e-5) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_subsamples": 1}, "not 1 subsample"),
        ({"num_null": -1}, "expected 0 or more"),
        ({"x": classes(3), "y": Y[:3]}, "expected at least 4 to draw halves from, got 3"),
        ({"y": Y[1:]}, "expected as many of x as of y"),
    ],
)
def test_what_cannot_be_assessed(settings, match):
    with pytest.raises(ValueError, match=match):
        assess(**{"x": classes(), "y": Y, "estimator": KDE(), **settings})


def test_labels_are_taken():
    expected = assess(classes(), Y, KDE(), num_null=2, num_subsamples=2)
    assert assess(classes(), Labels(np.asarray(Y, np.int32), CLASSES), KDE(), num_null=2, num_subsamples=2) == expected


def test_few_per_class():
    labels = np.repeat([0, 3, 7], [20, 19, 1])
    assert few_per_class(labels) == {3: 19, 7: 1}


def test_samples_drawn_twice_are_noticed_and_equal_values_are_not():
    x, y = NORMAL[:60, :2].repeat(2, axis=0), np.random.default_rng(0).integers(3, size=60).repeat(2)
    assert "50% of samples are copies" in (assess(x, y, Binned(4), num_null=0)["warnings"] or "").replace("the ", "")
    binary, labels = np.float32(NORMAL[:, :1] > 0), np.random.default_rng(1).permutation(Y)
    assert "copies" not in (assess(binary, labels, Binned(4), num_null=0)["warnings"] or "")


def test_halves_without_anything_that_varies_give_0():
    rare = np.zeros((60, 2), np.float32)
    rare[-1] = 1
    record = assess(rare, np.arange(60) % 3, Binned(code="unit"), num_null=0)
    assert np.isfinite([record["interval_lower"], record["extrapolated"]]).all()


@pytest.mark.parametrize("estimator", [KDE, "KDE", None])
def test_an_estimator_is_an_object(estimator):
    with pytest.raises(ValueError, match=r"expected an object such as KDE\(\)"):
        assess(classes(), Y, estimator)


TRAINED = ("infonce", "nwj", "donsker-varadhan", "smile")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in TRAINED else name for name in LABELLED])
def test_halves_of_pairs_of_a_class_are_not_taken_for_labels_that_are_all_different(name):
    x, y = NORMAL[:, :3], np.arange(N) % (N // 2)
    estimator, key = ESTIMATORS[name], jax.random.key(0)
    record = assess(x, y, estimator, num_null=1, num_subsamples=2)
    _, half_key, own_key = jax.random.split(key, 3)
    halves = [jax.random.permutation(k, N)[: N // 2] for k in jax.random.split(half_key, 2)]
    x, labels = checked(x, y)
    assert all(len(np.unique(y[half])) < N // 2 == labels.num_classes for half in halves)
    # As the labels count that occur: without gaps, which draw the folds and the critics of other classes.
    there = [labels[half] if name in FOLDED else checked_labels(y[half]) for half in halves]
    expected = [estimator(x[half], of_half, own_key).value for half, of_half in zip(halves, there, strict=True)]
    chex.assert_trees_all_close(record["subsamples"], tuple(map(float, expected)), atol=1e-4)
    assert record["null"] is not None


def test_labels_that_happen_to_be_all_different_are_known_to_be():
    for y in (
        checked_labels(np.arange(N) * 3),
        checked(NORMAL, Labels(np.arange(N), N + 1))[1],
        Labels.unique(N)[np.arange(9)],
    ):
        assert y.distinct
    assert not checked_labels(Y).distinct


def products(jaxpr, width):
    """Matrix products over features of this width, in the jaxpr and in the bodies of its equations."""
    own = [e for e in jaxpr.eqns if e.primitive.name == "dot_general" and e.invars[0].aval.shape[-1] == width]
    bodies = [body for equation in jaxpr.eqns for body in jaxprs_in_params(equation.params)]
    return len(own) + sum(products(body, width) for body in bodies)


@pytest.mark.parametrize("estimator", [KDE(), Renyi()])
def test_all_that_is_asked_of_a_layer_shares_one_matrix_of_distances(estimator):
    x, key = classes(d=17), jax.random.key(0)
    ys = [Labels.unique(N), checked_labels(Y), checked_labels(np.arange(N) % 2)]
    measure = jax.make_jaxpr(partial(_measure, num_null=3, num_subsamples=4))
    assert products(measure(estimator, x, ys, key).jaxpr, 17) == 1


@pytest.mark.parametrize("estimator", [KDE(), Renyi(), Renyi(1.5), Probe()])
def test_questions_that_are_asked_together_are_answered_as_alone(estimator):
    x, y = checked(classes(), Y)
    ys = {"label": y, "side": checked_labels(np.arange(N) % 2)}
    ys |= {} if isinstance(estimator, Probe) else {"input": Labels.unique(N), "floating": jnp.asarray(pairs(N, 2)[0])}
    together = assess_checked(x, ys, estimator, 3, 4, jax.random.key(0))
    alone = {name: assess_checked(x, {name: y}, estimator, 3, 4, jax.random.key(0))[name] for name, y in ys.items()}
    for name, record in alone.items():
        assert together[name] == {key: pytest.approx(value, abs=1e-5) for key, value in record.items()}
