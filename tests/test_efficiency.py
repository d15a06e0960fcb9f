"""ITE against records made by hand, and of planes measured by KDE."""

import chex
import numpy as np
import pytest

from ipjax import information_transformation_efficiency, measure_plane
from ipjax.efficiency import Efficiency
from ipjax.information_plane import InformationPlane

HALVES = np.array([-0.02, 0.0, 0.02])  # standard deviation .02
STUDENT = 4.302653  # 97.5 % point of Student's t with 2 degrees of freedom


def record(layer, label, about_input, **changes):
    return {
        "layer": layer,
        "input_estimator": "KDE",
        "label_estimator": "KDE",
        "input_information": about_input,
        "input_saturated": False,
        "label_information": label,
        "label_saturated": False,
        "label_null_upper": 0.1,
        "input_subsamples": None,
        "label_subsamples": None,
        **changes,
    }


def with_halves(layer, label, about_input):
    return record(layer, label, about_input, label_subsamples=tuple(label + HALVES), input_subsamples=(about_input,) * 3)


def ite(*records, definition="ratio"):
    return information_transformation_efficiency(InformationPlane(records), definition)


def test_ratio_of_records_made_by_hand():
    result = ite(record("a", 1.0, 4.0), record("b", 1.5, 2.0))
    assert result == {"a": Efficiency(0.25), "b": Efficiency(0.75)}


def test_increment_of_records_made_by_hand():
    result = ite(
        record("a", 1.0, 4.0), record("b", 1.5, 2.0), record("c", 1.25, 3.0), record("d", 1.0, 2.5), definition="increment"
    )
    assert [result[layer].value for layer in "bcd"] == [0.25, 0.25, -0.5]
    assert result["a"] == Efficiency(None, withheld="no layer before")


def test_interval_of_the_ratio_comes_from_pairs_of_halves():
    result = ite(with_halves("a", 1.0, 4.0))["a"]
    margin = STUDENT * 0.02 / 4
    chex.assert_trees_all_close((result.lower, result.value, result.upper), (0.25 - margin, 0.25, 0.25 + margin))


def test_halves_that_move_together_leave_the_ratio_certain():
    result = ite(record("a", 1.0, 4.0, label_subsamples=(0.9, 1.0, 1.1), input_subsamples=(3.6, 4.0, 4.4)))["a"]
    chex.assert_trees_all_close((result.lower, result.upper), (0.25, 0.25))


def test_interval_of_the_increment():
    after = record("b", 1.5, 2.0, label_subsamples=tuple(1.5 - HALVES), input_subsamples=(2.0,) * 3)
    result = ite(with_halves("a", 1.0, 4.0), after, definition="increment")["b"]
    margin = STUDENT * 2 * 0.02 / 2  # the label gain moves by twice the halves, over 2 nats dropped
    chex.assert_trees_all_close((result.lower, result.value, result.upper), (0.25 - margin, 0.25, 0.25 + margin))


@pytest.mark.parametrize("definition", ["ratio", "increment"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input_saturated": True}, "input information saturated"),
        ({"label_information": 0.1}, "label information within its null"),
        ({"label_information": -0.3}, "label information within its null"),
    ],
)
def test_withheld_with_the_reason(definition, changes, reason):
    result = ite(record("a", 1.0, 4.0), record("b", 1.5, 2.0, **changes), record("c", 1.5, 1.0), definition=definition)
    assert result["b"] == Efficiency(None, withheld=reason)
    if definition == "increment":  # the layer before matters as well
        assert result["c"] == Efficiency(None, withheld=reason)
    else:
        assert result["c"].value == 1.5


def test_ratio_withheld_without_information_about_the_input():
    assert ite(record("a", 0.5, 0.0))["a"].withheld == "no information about the input"


def test_increment_withheld_where_the_input_information_does_not_change():
    same = ite(record("a", 1.0, 3.0), record("b", 1.5, 3.0), definition="increment")
    assert same["b"] == Efficiency(None, withheld="input information does not change")
    after = record("b", 1.5, 2.97, label_subsamples=(1.5,) * 3, input_subsamples=tuple(2.97 + HALVES))
    within = ite(with_halves("a", 1.0, 3.0), after, definition="increment")  # .03 dropped, interval ± .086
    assert within["b"] == Efficiency(None, withheld="input information does not change beyond its interval")


def test_a_label_axis_at_its_ceiling_is_not_withheld():
    y = np.arange(120) % 4
    clusters = np.stack([y // 2, y % 2], axis=1) + 1e-4 * np.random.default_rng(0).normal(size=(120, 2))
    plane = measure_plane({"clusters": clusters}, y)
    assert plane.records[0]["label_saturated"]
    result = information_transformation_efficiency(plane)["clusters"]
    chex.assert_trees_all_close(result.value, 1.0, atol=1e-4)
    assert result.lower <= result.value <= result.upper


def test_kde_gives_a_ratio_from_0_to_1():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    features = {f"shift {shift}": rng.normal(size=(120, 2)) + shift * y[:, None] for shift in (0, 0.3, 1, 3, 30)}
    ratios = [e.value for e in information_transformation_efficiency(measure_plane(features, y, num_null=0)).values()]
    assert all(0 <= ratio <= 1 for ratio in ratios)
    assert all(np.diff(ratios) > 0)


def test_independent_labels_are_mostly_withheld():
    rng = np.random.default_rng(2)
    noise = {f"layer {i}": rng.normal(size=(120, 2)) for i in range(12)}
    plane = measure_plane(noise, np.arange(120) % 4, num_null=8)
    kept = [e for e in information_transformation_efficiency(plane).values() if e.withheld is None]
    assert len(kept) <= 4  # one layer in 9 lies above all 8 of its shuffles by chance; more than 4 of 12 with .6 %


def test_several_records_a_layer_are_refused():
    with pytest.raises(ValueError, match=r"expected one record a layer; choose with plane\.select"):
        ite(record("a", 1.0, 4.0), record("a", 1.0, 3.0))


def test_axes_from_different_estimators_are_refused():
    with pytest.raises(ValueError, match="expected both axes from one estimator, got KDE and Probe"):
        ite(record("a", 1.0, 4.0, label_estimator="Probe"))


def test_axes_that_were_not_measured_are_refused():
    nothing = measure_plane({"a": np.arange(40.0)}, np.arange(40) % 2, input_information=None, label_information=None)
    with pytest.raises(ValueError, match="estimator"):
        information_transformation_efficiency(nothing)


def test_unknown_definition_is_refused():
    with pytest.raises(ValueError, match='definition: expected "ratio" or "increment", got \'quotient\''):
        ite(record("a", 1.0, 4.0), definition="quotient")
