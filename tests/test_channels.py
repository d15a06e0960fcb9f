"""Information of single channels against the estimators on one feature, scikit-learn, and slow references."""

import chex
import estimator_reference
import jax
import neighbours_reference as reference
import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_classif

import ipjax.channels
from ipjax import InformationPlane
from ipjax.channels import Concentration, concentration, exponentials, input_information, label_information, measure_channels


def sample(n=200, channels=6, num_classes=4, seed=0):
    """Normal, heavy-tailed, half-zero and constant channels, some of which tell the label."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % num_classes)
    features = rng.normal(size=(n, channels)) + np.linspace(0, 1, channels) * y[:, None]
    features[:, 1] = rng.standard_cauchy(size=n)
    features[:, 2] = np.maximum(features[:, 2] - 1, 0)
    features[:, 3] = 0.1
    return features, y


@pytest.mark.parametrize("k", [1, 4])
def test_label_information_matches_the_reference(k):
    features, y = sample()
    expected = np.array([reference.ross(column[:, None], y, k)[0] for column in features.T])
    with jax.enable_x64(True):
        chex.assert_trees_all_close(np.asarray(label_information(features, y, k)), expected, rtol=1e-9, atol=1e-9)


def test_single_precision_is_enough():
    features, y = sample()
    expected = np.array([reference.ross(column[:, None], y)[0] for column in features.T])
    # A neighbour may change places with one as far to 7 digits: a few counts of about 10 by 1, of 200 samples.
    chex.assert_trees_all_close(np.asarray(label_information(features, y)), expected.astype(np.float32), atol=1e-3)


def test_label_information_matches_scikit_learn():
    features, y = sample(1000)
    expected = mutual_info_classif(features, y, random_state=0)
    with jax.enable_x64(True):
        ours = np.asarray(label_information(features, y))
    smooth = np.array([0, 1, 4, 5])
    assert expected[5] > 0.3
    chex.assert_trees_all_close(np.maximum(ours, 0)[smooth], expected[smooth], rtol=1e-9, atol=1e-9)
    assert abs(ours[2] - expected[2]) < 0.05  # its jitter makes neighbours of the zeros, ours counts them


def test_small_classes():
    features, _ = sample(100)
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, 4], [60, 34, 3, 2, 1]))
    expected = np.array([reference.ross(column[:, None], y)[0] for column in features.T])
    with jax.enable_x64(True):
        chex.assert_trees_all_close(np.asarray(label_information(features, y)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("n", [60, 1100])  # the median comes from all samples, from every third
def test_input_information_matches_the_kernel_density_reference(noise, n):
    features, _ = sample(n)
    varying = np.array([0, 1, 2, 4, 5])
    expected = np.zeros(6)
    expected[varying] = [estimator_reference.kde(features[:, [j]], np.arange(n), noise)[0] for j in varying]
    with jax.enable_x64(True):
        chex.assert_trees_all_close(np.asarray(input_information(features, noise)), expected, atol=2e-5)
    chex.assert_trees_all_close(np.asarray(input_information(features, noise)), expected.astype(np.float32), atol=5e-5)


def test_a_sum_of_exponentials_is_the_gaussian():
    u = np.linspace(0, 50, 2001)
    for poles, error in ((8, 3e-4), (12, 3e-6), (16, 3e-8)):
        rates, weights = exponentials(poles)
        total = np.sum(weights * np.exp(-u[:, None] * rates), axis=1).real
        chex.assert_trees_all_close(total, np.exp(-(u**2) / 2), atol=error)


def test_noise_where_most_samples_coincide_comes_from_the_mean_distance():
    column = np.zeros((100, 1))
    column[:20, 0] = np.random.default_rng(0).normal(size=20)
    scale = 0.05 * 2 * column.var()
    bound = estimator_reference.pairwise_bound(
        estimator_reference.squared_distances(column) / (2 * scale), np.ones((100, 100), bool)
    )
    chex.assert_trees_all_close(np.asarray(input_information(column)), np.array([bound], np.float32), atol=5e-5)


def test_constant_channels_give_0():
    features, y = sample()
    assert label_information(features, y)[3] == 0
    assert abs(input_information(features)[3]) < 1e-5
    constant = np.full_like(features, 0.1)
    chex.assert_trees_all_close(np.asarray(label_information(constant, y)), np.zeros(6), atol=1e-6)
    chex.assert_trees_all_close(np.asarray(input_information(constant)), np.zeros(6), atol=1e-5)


def test_blocks_of_channels_equal_all_at_once(monkeypatch):
    features, y = sample()
    expected = label_information(features, y), input_information(features)
    monkeypatch.setattr(ipjax.channels, "_VALUES", 800)  # two blocks in place of one, of four, the last one filled up
    features, expected = features[:, [*range(6), 0]], tuple(np.append(values, values[0]) for values in expected)
    chex.assert_trees_all_close((label_information(features, y), input_information(features)), expected, atol=1e-6)


def test_order_of_samples_and_scale_of_channels_do_not_matter():
    features, y = sample()
    order = np.random.default_rng(1).permutation(len(y))
    scaled = features * 10.0 ** np.arange(-20, 40, 10)
    expected = label_information(features, y)
    chex.assert_trees_all_close(label_information(features[order], y[order]), expected, atol=1e-5)
    chex.assert_trees_all_close(label_information(scaled, y), expected, atol=1e-5)
    chex.assert_trees_all_close(input_information(features[order]), input_information(features), atol=1e-5)
    chex.assert_trees_all_close(input_information(scaled), input_information(features), atol=1e-4)


def test_a_second_call_compiles_nothing():
    features, y = sample()
    label_information(features, y)
    input_information(features, 0.05)
    sizes = ipjax.channels._label_information._cache_size(), ipjax.channels._input_information._cache_size()
    other, _ = sample(seed=1)
    label_information(other, (y + 1) % 4)
    input_information(other, 0.1)
    assert (ipjax.channels._label_information._cache_size(), ipjax.channels._input_information._cache_size()) == sizes


def test_one_class_tells_nothing():
    features, _ = sample()
    chex.assert_trees_all_close(np.asarray(label_information(features, np.zeros(200, int))), np.zeros(6), atol=1e-6)


FEATURES, Y = sample(20)


@pytest.mark.parametrize(
    ("features", "labels", "k", "match"),
    [
        (FEATURES[:, 0], Y, 3, r"expected floating \[samples, channels\], got float64 of shape \[20\]"),
        (FEATURES.astype(int), Y, 3, "expected floating"),
        (FEATURES[:1], Y[:1], 3, "expected at least 2 samples, got 1"),
        (np.where(np.isin(FEATURES, FEATURES[7, 4]), np.inf, FEATURES), Y, 3, r"in 1 of 6 channels, first \[4\]"),
        (FEATURES, Y[:-1], 3, "got 20 and 19"),
        (FEATURES, Y.astype(float), 3, "labels: expected integer labels"),
        (FEATURES, Y - 1, 3, "labels: expected labels from 0 on, got -1"),
        (FEATURES, np.arange(20), 3, "labels: all are different"),
        (FEATURES, Y, 20, "num_neighbors: expected from 1 to 19, one less than the samples, got 20"),
        (FEATURES, Y, 0, "num_neighbors: expected from 1 to 19"),
    ],
)
def test_data_that_cannot_be_measured(features, labels, k, match):
    with pytest.raises(ValueError, match=match):
        label_information(features, labels, k)


@pytest.mark.parametrize("noise", [0, -1.0, float("nan"), float("inf")])
def test_noise_must_be_finite_and_above_0(noise):
    with pytest.raises(ValueError, match="noise: expected a finite number above 0"):
        input_information(FEATURES, noise)
    with pytest.raises(ValueError, match="expected floating"):
        input_information(FEATURES[:, 0])


LAYERS = {"first": sample(seed=2)[0][:, :3], "second": sample()[0]}
LABELS = sample()[1]


def test_records_hold_each_channels_information_and_rank():
    plane = measure_channels(LAYERS, LABELS, noise=0.1, representation="contrast")
    assert [(r["layer"], r["depth"], r["channel"]) for r in plane.records] == [
        *(("first", 0, channel) for channel in range(3)),
        *(("second", 1, channel) for channel in range(6)),
    ]
    assert {r["representation"] for r in plane.records} == {"contrast"}
    for layer, features in LAYERS.items():
        records = plane.select(layer=layer).records
        label, about_input = ([r[f"{variable}_information"] for r in records] for variable in ("label", "input"))
        chex.assert_trees_all_close(np.array(label), np.asarray(label_information(features, LABELS), float), atol=1e-6)
        chex.assert_trees_all_close(np.array(about_input), np.asarray(input_information(features, 0.1), float), atol=1e-5)
        by_rank = sorted(records, key=lambda record: record["rank"])
        assert [r["rank"] for r in by_rank] == list(range(1, len(label) + 1))
        assert [r["label_information"] for r in by_rank] == sorted(label, reverse=True)
        assert {r["num_channels"] for r in records} == {len(label)}


def test_null_of_a_layer_is_of_its_channels_with_shuffled_labels():
    plane = measure_channels(LAYERS, LABELS, num_null=19)
    null, largest = (plane.select(layer="second").records[0][key] for key in ("label_null", "label_null_upper"))
    assert abs(null) < 0.03
    assert null < largest < 0.25
    told = {r["channel"] for r in plane.select(layer="second").records if r["label_information"] > largest}
    assert told == {4, 5}  # the two that move most with the label


def test_channels_that_know_nothing_seldom_exceed_the_null():
    rng = np.random.default_rng(0)
    layers = {f"layer {i}": rng.normal(size=(100, 8)) for i in range(40)}
    plane = measure_channels(layers, np.arange(100) % 4, num_null=19)
    exceeding = {r["layer"] for r in plane.records if r["label_information"] > r["label_null_upper"]}
    assert len(exceeding) <= 6  # one layer of 20 does by chance; more than 6 of 40 with .4 %


def test_records_repeat_are_saved_and_need_no_null(tmp_path):
    plane = measure_channels(LAYERS, LABELS, num_null=2, seed=3)
    assert measure_channels(LAYERS, LABELS, num_null=2, seed=3) == plane
    plane.save(tmp_path / "channels.npz")
    assert InformationPlane.load(tmp_path / "channels.npz") == plane
    without = measure_channels(LAYERS, LABELS, num_null=0).records
    assert all(r["label_null"] is None and r["label_null_upper"] is None for r in without)
    assert [r["label_information"] for r in without] == [r["label_information"] for r in plane.records]


def test_track_sees_every_pass():
    seen = []

    def track(passes):
        for one in passes:
            seen.append(one)
            yield one

    measure_channels(LAYERS, LABELS, num_null=3, track=track)
    assert seen == [0, 1, 2, 3]


def channel_records(values, null, layer="a"):
    common = {"representation": "activation", "layer": layer, "label_null_upper": null}
    return tuple({**common, "channel": i, "label_information": value} for i, value in enumerate(values))


def test_concentration_of_records_made_by_hand():
    plane = InformationPlane(
        channel_records([0.1, 1.0, 0.2, 0.5, 0.3, 0.2], 0.1)
        + channel_records([0.0, 0.1], 0.2, "nothing")
        + channel_records([-0.1, -0.2, 0.1], -0.3, "below 0")
        + channel_records([0.5] * 10, 0.1, "even")
    )
    assert concentration(plane) == {  # of "a" the sum above the null is 2.2, half of it 1.1
        "a": Concentration(num_channels=6, num_informative=5, num_holding_half=2),
        "nothing": Concentration(2, 0, 0),
        "below 0": Concentration(3, 1, 1),
        "even": Concentration(10, 10, 5),
    }


def test_concentration_needs_one_representation_and_a_null():
    activation = channel_records([0.1], 0.1)
    contrast = tuple({**record, "representation": "contrast"} for record in activation)
    with pytest.raises(ValueError, match=r"expected one representation; choose with channels\.select"):
        concentration(InformationPlane(activation + contrast))
    with pytest.raises(ValueError, match="expected records with a null"):
        concentration(InformationPlane(channel_records([0.1], None)))


@pytest.mark.parametrize(
    ("layers", "changes", "match"),
    [
        ({}, {}, "features: expected at least one layer"),
        ({"a": FEATURES, "b": FEATURES[:, 0]}, {}, r"features of layer 'b': expected floating \[samples, channels\]"),
        ({"a": FEATURES, "b": FEATURES[:10]}, {}, "features of layer 'b': expected as many samples as labels, 20, got 10"),
        ({"a": FEATURES}, {"num_null": -1}, "num_null: expected 0 or more, got -1"),
        ({"a": FEATURES}, {"noise": 0.0}, "noise: expected a finite number above 0"),
    ],
)
def test_layers_that_cannot_be_measured(layers, changes, match):
    with pytest.raises(ValueError, match=match):
        measure_channels(layers, Y, **changes)
