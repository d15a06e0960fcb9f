"""Planes: what the records hold, files, nulls, intervals, and what is refused."""

import csv

import chex
import numpy as np
import pytest

from ipjax import measure_plane, mutual_information
from ipjax.estimators import KDE, Binned, Probe
from ipjax.information_plane import InformationPlane, profile

N, CLASSES = 120, 4
Y = np.arange(N) % CLASSES
SIDE = np.arange(N) // CLASSES % 2


def features():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, N, 2)).astype(np.float32)
    return {
        "input": np.insert(noise[0] + 3 * SIDE[:, None], 1, 5.0, axis=1),  # knows the side; one constant column
        "middle": noise[1] + Y[:, None],
        "last": 0.1 * noise[2] + Y[:, None],
    }


@pytest.fixture(scope="module")
def plane():
    return measure_plane(features(), Y, nuisances={"side": SIDE}, representation="contrast", seed=3)


def test_records_have_every_key(plane):
    numbers = ("information", "lower", "upper", "ceiling", "saturated")
    extra = ("null", "null_upper", "p_value", "interval_lower", "interval_upper", "extrapolated", "subsamples", "warnings")
    expected = {"representation", "layer", "depth", "input_estimator", "label_estimator"}
    expected |= {"num_samples", "num_features", "num_constant", "num_null", "num_subsamples", "seed"}
    expected |= {f"{variable}_{part}" for variable in ("input", "label", "side") for part in numbers + extra}
    assert all(record.keys() == expected for record in plane.records)


def test_records_describe_their_layer(plane):
    assert [(r["layer"], r["depth"]) for r in plane.records] == [("input", 0), ("middle", 1), ("last", 2)]
    first = plane.records[0]
    assert (first["representation"], first["num_samples"]) == ("contrast", N)
    assert (first["num_features"], first["num_constant"]) == (2, 1)
    assert first["input_estimator"] == first["label_estimator"] == repr(KDE())


def test_records_hold_the_estimates(plane):
    for record in plane.records:
        for variable, y in (("input", np.arange(N)), ("label", Y), ("side", SIDE)):
            estimate = mutual_information(features()[record["layer"]], y, KDE())
            got = [record[f"{variable}_{part}"] for part in ("information", "lower", "upper", "ceiling")]
            expected = [float(part) for part in (estimate.value, estimate.lower, estimate.upper, estimate.ceiling)]
            chex.assert_trees_all_close(got, expected, atol=1e-5)
            assert record[f"{variable}_saturated"] is bool(estimate.saturated)


def test_each_variable_is_seen_where_it_is(plane):
    first, _, last = plane.records
    assert first["side_information"] > first["side_null_upper"]
    assert first["label_information"] < first["label_null_upper"]
    assert last["label_information"] > 5 * last["label_null_upper"]
    assert last["side_information"] < last["side_null_upper"]
    assert last["input_null"] is None  # every order of all-different labels is the same


def test_the_seed_decides_nulls_and_halves():
    def nulls(seed):
        (record,) = measure_plane({"middle": features()["middle"]}, Y, seed=seed).records
        return record["label_null"], record["label_subsamples"]

    assert nulls(3) == nulls(3)
    assert nulls(3) != nulls(4)


def test_save_and_load_give_equal_records(plane, tmp_path):
    plane.save(tmp_path / "plane.npz")
    loaded = InformationPlane.load(tmp_path / "plane.npz")
    assert loaded == plane
    for ours, theirs in zip(plane.records, loaded.records, strict=True):
        assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}


def test_save_and_load_keep_none_bool_text_tuples_and_numbers(tmp_path):
    records = (
        {"layer": "a", "depth": 0, "estimator": None, "x": 0.1 + 0.2, "ok": True, "null": None, "parts": (1.0, 2.5)},
        {"layer": "é 2", "depth": 1, "estimator": "KDE", "x": -1e-30, "ok": False, "null": 0.5, "parts": None},
    )
    InformationPlane(records).save(tmp_path / "plane")
    assert InformationPlane.load(tmp_path / "plane").records == records


def test_a_flag_that_only_some_records_have_stays_a_flag(tmp_path):
    records = ({"layer": "a", "label_saturated": True}, {"layer": "b", "label_saturated": None})
    InformationPlane(records).save(tmp_path / "plane.npz")
    first, second = InformationPlane.load(tmp_path / "plane.npz").records
    assert first["label_saturated"] is True
    assert second["label_saturated"] is None


def test_csv_can_be_read(plane, tmp_path):
    plane.to_csv(tmp_path / "layers.csv")
    with (tmp_path / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["input", "middle", "last"]
    assert not any(key.endswith("_subsamples") for key in rows[0])
    for row, record in zip(rows, plane.records, strict=True):
        assert abs(float(row["label_information"]) - record["label_information"]) <= 5e-7
        assert row["input_null"] == ""
        assert row["label_saturated"] == str(record["label_saturated"])


def test_the_same_measurement_writes_the_same_bytes(plane, tmp_path):
    again = measure_plane(features(), Y, nuisances={"side": SIDE}, representation="contrast", seed=3)
    plane.to_csv(tmp_path / "one.csv")
    again.to_csv(tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a file at .*nothing\.npz"):
        InformationPlane.load(tmp_path / "nothing.npz")


def test_a_damaged_file_is_refused(plane, tmp_path):
    plane.save(tmp_path / "plane.npz")
    whole = (tmp_path / "plane.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not numpy"):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="no file of records, or is damaged"):
            InformationPlane.load(tmp_path / "damaged.npz")


@pytest.mark.parametrize(
    "columns", [{"images": np.zeros(3)}, {"layer": np.array(["a", "b"]), "x": np.zeros(3)}, {"layer": np.array("a")}]
)
def test_another_npz_file_is_refused(columns, tmp_path):
    np.savez(tmp_path / "other.npz", **columns)
    with pytest.raises(ValueError, match=r"no file of records|not an information plane's file"):
        InformationPlane.load(tmp_path / "other.npz")


def test_select(plane):
    assert [r["layer"] for r in plane.select(layer="middle").records] == ["middle"]
    assert plane.select(representation="contrast") == plane
    with pytest.raises(KeyError, match="middle"):
        plane.select(layer="nowhere")
    assert len(InformationPlane(plane.records * 2).select(layer="last", depth=2).records) == 2


def test_axes_can_be_left_out():
    layer = {"middle": features()["middle"]}
    without_input = measure_plane(layer, Y, input_information=None, num_null=0, num_subsamples=0).records[0]
    assert not any(key.startswith("input_") for key in without_input.keys() - {"input_estimator"})
    assert without_input["input_estimator"] is None
    assert without_input["label_null"] is without_input["label_interval_lower"] is without_input["label_subsamples"] is None
    without_label = measure_plane(layer, Y, label_information=None, num_subsamples=0).records[0]
    assert not any(key.startswith("label_") for key in without_label.keys() - {"label_estimator"})


def test_estimators_may_differ():
    (record,) = measure_plane({"middle": features()["middle"]}, Y, label_information=Probe(), num_null=2).records
    assert record["label_estimator"] == repr(Probe())
    assert record["label_ceiling"] < record["input_ceiling"]


def test_track_sees_every_layer():
    seen = []

    def track(layers):
        for layer in layers:
            seen.append(layer)
            yield layer

    measure_plane(features(), Y, input_information=None, num_null=0, num_subsamples=0, track=track)
    assert seen == ["input", "middle", "last"]


def bad_layer(value):
    wrong = features()
    wrong["middle"][3, 0] = value
    return wrong


@pytest.mark.parametrize(
    ("layers", "settings", "match"),
    [
        ({}, {}, "expected at least one layer"),
        (bad_layer(np.nan), {}, r"features of layer 'middle'.*first \[3\]"),
        ({"dead": np.zeros((N, 3))}, {}, "features of layer 'dead': none of the 3 features varies"),
        ({"conv": np.zeros((N, 4, 4, 3))}, {}, "features of layer 'conv'.*apply a readout"),
        ({"short": np.zeros((N - 1, 3)) + np.arange(3.0)}, {}, "'short'"),
        (features(), {"labels": Y.astype(float)}, "labels: expected integer"),
        (features(), {"nuisances": {"side": SIDE[1:]}}, "expected as many"),
        (features(), {"nuisances": {"side": SIDE - 1}}, "nuisance 'side': expected labels from 0 on"),
        (features(), {"nuisances": {"label": Y}}, "the name 'label' is taken"),
        (features(), {"num_subsamples": 1}, "not 1 subsample"),
        (features(), {"num_null": -1}, "expected 0 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(layers, settings, match):
    with pytest.raises(ValueError, match=match):
        measure_plane(layers, **{"labels": Y, **settings})


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_features_does_not_matter(scale):
    features, labels = np.random.default_rng(0).standard_normal((60, 4)), np.arange(60) % 3
    plain, scaled = (
        measure_plane({"layer": values}, labels, num_subsamples=0).records[0] for values in (features, scale * features)
    )
    assert scaled["label_information"] == pytest.approx(plain["label_information"], rel=1e-5)


def test_profile_over_a_continuous_setting():
    noises = (0.01, 0.1, 1.0)
    plane = profile(features(), Y, KDE(), "noise", noises)
    assert [r["noise"] for r in plane.select(layer="middle").records] == list(noises)
    for layer in features():
        values = [r["input_information"] for r in plane.select(layer=layer).records]
        assert values[0] > values[1] > values[2]
    for record in plane.select(layer="last").records:
        expected = mutual_information(features()["last"], Y, KDE(record["noise"])).value
        chex.assert_trees_all_close(record["label_information"], float(expected), atol=1e-5)


def test_profile_over_a_setting_of_shapes():
    layer = {"last": features()["last"]}
    plane = profile(layer, Y, Binned(), "num_bins", (2, 8), input_axis=False)
    assert [r["num_bins"] for r in plane.records] == [2, 8]
    assert "input_information" not in plane.records[0]
    for record in plane.records:
        expected = mutual_information(layer["last"], Y, Binned(record["num_bins"])).value
        chex.assert_trees_all_close(record["label_information"], float(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "values", "match"),
    [
        ("noise", (), "at least one value"),
        ("noise", (0.1, 0.0), "noise: expected a finite number above 0, got 0.0"),
        ("noise", (float("nan"),), "noise: expected a finite number above 0"),
        ("nose", (0.1,), "expected one of noise of KDE and at least one value, got 'nose'"),
    ],
)
def test_a_profile_needs_a_setting_and_values(setting, values, match):
    with pytest.raises(ValueError, match=match):
        profile(features(), Y, KDE(), setting, values)


def test_links_are_followed_and_devices_left_alone(plane, tmp_path):
    target, link = tmp_path / "plane.npz", tmp_path / "link.npz"
    link.symlink_to(target)
    plane.save(link)
    assert link.is_symlink()
    assert InformationPlane.load(target) == plane
    with pytest.raises(ValueError, match="expected the path of a file"):
        plane.to_csv(tmp_path)


@pytest.mark.parametrize("values", [(3,), (8, 8)])
def test_a_profile_over_one_static_value(values):
    assert len(profile({"last": features()["last"]}, Y, Binned(), "num_bins", values).records) == len(values)
