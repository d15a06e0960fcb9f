"""The fall of I(X; C) after its largest value, from made-up trajectories."""

import math

import numpy as np
import pytest
from scipy import stats

from ipjax.trajectories import by_seed, compression

EPOCHS = (0, 1, 10, 100)


def trajectories(values, saturated=False, **other):
    """Records of one layer from values [seeds, epochs]."""
    key = {"network": "tanh", "representation": "activation", "estimator": "binned", "layer": "hidden.0", "depth": 0} | other
    return [
        key | {"seed": seed, "epoch": epoch, "input_information": float(value), "input_saturated": saturated}
        for seed, row in enumerate(values)
        for epoch, value in zip(EPOCHS, row, strict=True)
    ]


def test_numbers():
    values = np.array([[1, 3, 2, 1.0], [1, 2, 3, 1.5], [2, 4, 3, 2]])
    (found,) = compression(trajectories(values))
    drops = np.array([2, 1.5, 2])
    margin = stats.t.ppf(0.975, 2) * drops.std(ddof=1) / math.sqrt(3)
    expected = {"largest": 10 / 3, "largest_epoch": 1, "rise": 2, "last": 1.5, "drop": drops.mean(), "num_seeds": 3}
    expected |= {"drop_lower": drops.mean() - margin, "drop_upper": drops.mean() + margin}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["verdict"] == "compresses"
    bits = [value / math.log(2) for value in (drops.mean(), drops.mean() - margin, drops.mean() + margin, 10 / 3)]
    assert found["sentence"] == (
        "activation of hidden.0 by binned: compresses; I(X;C) falls by {:.2f} bits (95 % interval {:.2f} to {:.2f} over "
        "3 seeds) from {:.2f} at epoch 1".format(*bits)
    )


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ((1, 1.1, 0.9), "compresses"),
        ((4, 4, 3.95), "does not compress"),
        ((4, 1, 4), "undecided"),
        ((3.8, 3.7, 3.9), "undecided"),  # around 5 % of the largest
        ((1,), "undecided"),  # one seed has no spread
    ],
)
def test_verdicts(last, verdict):
    (found,) = compression(trajectories([[1, 2, 4, end] for end in last]))
    assert found["verdict"] == verdict
    assert f": {verdict}; " in found["sentence"]


def test_a_fall_without_a_fitting_phase_is_said_to_be_one():
    (found,) = compression(trajectories([[4, 2, 1, 1]] * 2))
    assert found["sentence"].endswith(f"from {4 / math.log(2):.2f} before training")


def test_a_layer_that_ends_saturated_is_withheld():
    (found,) = compression(trajectories([[1, 2, 4, 4]] * 3, saturated=True))
    assert found["verdict"] == "withheld"
    assert f"rises by {3 / math.log(2):.2f} bits and ends saturated at {4 / math.log(2):.2f}" in found["sentence"]


def test_every_layer_network_representation_and_estimator_by_itself():
    kinds = [{"layer": "hidden.1", "depth": 1}, {"network": "relu"}, {"representation": "contrast"}, {"estimator": "kde"}]
    records = [r for i, kind in enumerate([{}, *kinds]) for r in trajectories([[1, 2, 4, 4 - i]] * 2, **kind)]
    found = compression(records)
    assert [one["drop"] for one in found] == [0, 1, 2, 3, 4]
    assert [(one["network"], one["layer"]) for one in found[:3]] == [
        ("tanh", "hidden.0"),
        ("tanh", "hidden.1"),
        ("relu", "hidden.0"),
    ]


def test_values_by_seed_are_sorted_by_epoch():
    records = trajectories([[1, 2, 4, 3], [5, 6, 7, 8]])
    epochs, values = by_seed(records[::-1], "input_information")
    np.testing.assert_array_equal(epochs, EPOCHS)
    np.testing.assert_array_equal(np.sort(values, axis=0), [[1, 2, 4, 3], [5, 6, 7, 8]])


def test_seeds_measured_at_different_epochs_are_refused():
    with pytest.raises(ValueError, match=r"each of the seeds \[0, 1\] once at the same epochs, got 7 records"):
        compression(trajectories([[1, 2, 4, 3]] * 2)[:-1])
    with pytest.raises(ValueError, match="records: expected at least one, got none"):
        compression([])


def test_a_single_checkpoint_shows_no_fall_nor_its_absence():
    (found,) = compression([record for record in trajectories([[1, 2, 3, 4]] * 3) if record["epoch"] == 0])
    assert found["drop"] == 0 and found["verdict"] == "undecided"


def test_no_share_of_a_value_below_zero():
    falls = compression(trajectories([[-2, -1, -1, -1.001], [-2, -1, -1, -0.999], [-2, -1, -1, -1]]))
    assert falls[0]["verdict"] == "undecided"


def test_values_that_are_not_finite():
    with pytest.raises(ValueError, match=r"finite numbers as input_information, activation of hidden\.0 by binned"):
        compression(trajectories([[1, math.nan, 2, 1]]))
