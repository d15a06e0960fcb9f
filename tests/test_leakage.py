"""The leak against records made by hand, and on planes measured by KDE."""

import chex
import numpy as np
import pytest

from ipjax import InformationPlane, Leak, measure_plane, target_leakage

HALVES = np.array([-0.02, 0.0, 0.02])  # standard deviation .02
STUDENT = 4.302653  # 97.5 % point of Student's t with 2 degrees of freedom


def record(representation, layer, label, **changes):
    return {
        "representation": representation,
        "layer": layer,
        "label_estimator": "KDE",
        "num_samples": 100,
        "label_information": label,
        "label_subsamples": None,
        **changes,
    }


def leakage(*records, **names):
    return target_leakage(InformationPlane(records), **names)


def test_leak_of_records_made_by_hand():
    found = leakage(
        record("activation", "a", 0.1),
        record("predicted", "a", 1.5),
        record("predicted", "b", 1.0),
        record("contrast", "a", 0.5),
        record("contrast", "b", 1.25),
        record("random", "a", 0.25),
    )
    assert found == {"a": Leak(1.0, null=-0.25), "b": Leak(-0.25)}


def test_interval_comes_from_pairs_of_halves():
    chosen = record("predicted", "a", 1.5, label_subsamples=tuple(1.5 + HALVES))
    fixed = record("contrast", "a", 0.5, label_subsamples=tuple(0.5 - HALVES))
    leak = leakage(chosen, fixed)["a"]
    margin = STUDENT * 2 * 0.02
    chex.assert_trees_all_close((leak.lower, leak.value, leak.upper), (1 - margin, 1.0, 1 + margin))


def test_halves_that_move_together_leave_the_leak_certain():
    chosen = record("predicted", "a", 1.5, label_subsamples=tuple(1.5 + HALVES))
    fixed = record("contrast", "a", 0.5, label_subsamples=tuple(0.5 + HALVES))
    leak = leakage(chosen, fixed)["a"]
    chex.assert_trees_all_close((leak.lower, leak.upper), (1.0, 1.0))


def test_only_layers_of_both_conductances():
    assert set(leakage(record("predicted", "a", 1.0), record("predicted", "b", 1.0), record("contrast", "b", 1.0))) == {"b"}


def test_representations_of_other_names():
    records = record("true", "a", 1.0), record("c7", "a", 0.25), record("any", "a", 0.5)
    assert leakage(*records, predicted="true", contrast="c7") == {"a": Leak(0.75)}
    assert leakage(*records, predicted="true", contrast="c7", random="any") == {"a": Leak(0.75, null=0.25)}


def test_a_target_that_carries_the_label_leaks_and_one_that_does_not_does_not():
    """One feature of three is a class index: of the label, fixed, or of a class that does not depend on it."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    layer = rng.normal(size=(200, 2))
    indices = {"predicted": labels, "contrast": np.zeros(200), "random": rng.permutation(labels)}
    records = []
    for representation, index in indices.items():
        features = {"layer": np.column_stack([layer, 5 * index])}
        records += measure_plane(features, labels, input_information=None, representation=representation).records
    leak = leakage(*records)["layer"]
    assert leak.lower > 0.5
    assert abs(leak.null) < 0.2
    assert leak.lower <= leak.value <= leak.upper


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        ([record("predicted", "a", 1.0)], KeyError, "representation 'contrast', the plane has predicted"),
        ([record("contrast", "a", 1.0)], KeyError, "representation 'predicted', the plane has contrast"),
        ([], KeyError, "the plane has none"),
        (
            [record("predicted", "a", 1.0), record("predicted", "a", 1.0, label_estimator="Probe")],
            ValueError,
            r"got several, by KDE, Probe; choose with plane\.select\(label_estimator=",
        ),
        (
            [record("predicted", "a", None), record("contrast", "a", 1.0)],
            ValueError,
            "layer 'a': expected label information of 'predicted', which was not measured",
        ),
        (
            [record("predicted", "a", 1.0), record("contrast", "a", 1.0), record("random", "a", None)],
            ValueError,
            "expected label information of 'random'",
        ),
        (
            [record("predicted", "a", 1.0), record("contrast", "a", 1.0, label_estimator="Probe")],
            ValueError,
            "expected the same label_estimator of all, got {'predicted': 'KDE', 'contrast': 'Probe'}",
        ),
        (
            [record("predicted", "a", 1.0), record("contrast", "a", 1.0, num_samples=50)],
            ValueError,
            "expected the same num_samples of all",
        ),
        (
            [
                record("predicted", "a", 1.0, label_subsamples=(1.0, 1.0)),
                record("contrast", "a", 1.0, label_subsamples=(1.0, 1.0, 1.0)),
            ],
            ValueError,
            "expected as many halves",
        ),
    ],
)
def test_planes_that_tell_no_leak(records, error, message):
    with pytest.raises(error, match=message):
        leakage(*records)
