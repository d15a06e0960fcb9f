"""The main program, small: its files, its repeatability, and what it refuses before any long work."""

import csv
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import ipjax
from experiments.evidence import measure_ablation
from experiments.resnet_ip import main
from experiments.runner import Config
from experiments.selection import preprocessing_of, select
from ipjax import files, plotting
from ipjax.attribution import Attribution
from tests.test_resume import folder_of_images

LAYERS = ("input", "layer2.3", "avgpool")
FIGURES = ("information_plane", "ite", "kept_and_dropped", "channels", "noise_profile")
OF_ABLATION = ("ablation", "rankings")
ATTRIBUTION = ("attribution", "attribution_channels")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = Config(num_images=100, num_steps=2, layers=LAYERS, out=folder / "run", compiled=folder / "compiled")
    return config, main(config)


def test_writes_every_file(run):
    _, out = run
    figures = {f"{name}.{end}" for name in (*FIGURES, "theory", *OF_ABLATION) for end in ("png", "svg")}
    figures |= {f"{name}.png" for name in ATTRIBUTION}
    others = {"config.json", "environment.json", "features", "measured"}
    others |= {
        "report.html",
        "layers.csv",
        "plane.npz",
        "second.npz",
        "channels.csv",
        "channels.npz",
        "noise_profile.npz",
        "attribution.npz",
    }
    tables = ("theory", "theory_steps", "ablation", "ablation_areas", "rankings")
    others |= {f"{name}.{end}" for name in tables for end in ("npz", "csv")}
    assert {path.name for path in out.iterdir()} == figures | others
    shards = {"00000000-00000064.safetensors", "00000064-00000100.safetensors"}
    assert {path.name for path in (out / "features").iterdir()} == shards
    environment = json.loads((out / "environment.json").read_text())
    assert environment["accuracy"] > 0.9
    assert environment["unreadable"] == []


def test_layers_csv_has_a_row_per_representation_layer_and_estimator(run):
    _, out = run
    with (out / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = {(row["representation"], row["layer"], row["label_estimator"].split("(")[0]) for row in rows}
    expected = set(itertools.product(("activation", "predicted", "contrast", "random"), LAYERS, ("KDE", "Probe")))
    expected |= set(itertools.product(("activation", "predicted", "contrast"), LAYERS, ("Renyi",)))
    assert keys == expected
    assert len(rows) == len(expected)
    for row in rows:
        random, kde = row["representation"] == "random", row["label_estimator"].startswith("KDE")
        assert bool(row["input_information"]) == (not row["label_estimator"].startswith("Probe") and not random)
        assert bool(row["ite"]) != bool(row["ite_withheld"]) if kde and not random else not row["ite"]
        assert bool(row["completeness_gap"]) == (
            row["representation"] != "activation" and not row["label_estimator"].startswith("Renyi")
        )
        for variable in ("label",) if random or not row["position_information"] else ("label", "position", "size", "contrast"):
            assert float(row[f"{variable}_lower"]) <= float(row[f"{variable}_information"]) <= float(row[f"{variable}_upper"])


def test_leak_stands_with_the_predicted_class(run):
    _, out = run
    plane = ipjax.InformationPlane.load(out / "plane.npz")
    for estimator in {record["label_estimator"] for record in plane.records}:
        of_estimator = plane.select(label_estimator=estimator)
        for layer, leak in ipjax.target_leakage(of_estimator).items():
            (record,) = of_estimator.select(representation="predicted", layer=layer).records
            assert (record["leak"], record["leak_null"]) == (leak.value, leak.null)
            assert (record["leak_lower"], record["leak_upper"]) == (leak.lower, leak.upper)
            assert (leak.lower is not None) == estimator.startswith("KDE")
    assert {r["representation"] for r in plane.records if r["leak"] is not None} == {"predicted"}
    early = plane.select(representation="predicted", layer="layer2.3").records
    assert all(record["leak"] > record["leak_null"] for record in early)


def test_channels_are_those_of_the_layers(run):
    _, out = run
    channels = ipjax.InformationPlane.load(out / "channels.npz")
    sizes = {"input": 3, "layer2.3": 128, "avgpool": 512}
    for representation in ("activation", "predicted", "contrast"):
        of_one = channels.select(representation=representation)
        assert {layer: len(of_one.select(layer=layer).records) for layer in LAYERS} == sizes
    assert len(channels.records) == 3 * sum(sizes.values())
    with (out / "channels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (3 + 10 + 10)
    assert all(int(row["rank"]) <= 10 for row in rows)
    best = channels.select(representation="activation", layer="avgpool", rank=1).records[0]
    assert best["label_information"] > best["label_null_upper"]


def test_knocks_out_the_blocks_and_channels_of_the_layers(run):
    _, out = run
    losses = files.load(out / "ablation.npz")
    assert [record["layer"] for record in losses if record["kind"] == "block"] == ["layer2.3"]
    assert {record["layer"] for record in losses if record["kind"] == "channels"} == {"layer2.3", "avgpool"}
    assert {record["num_samples"] for record in losses} == {50}
    for record in losses:
        assert record["loss"] == pytest.approx(record["cross_entropy"] - record["intact_cross_entropy"], abs=1e-6)
        if record["kind"] == "channels" and record["share"] == (1.0 if record["curve"] == "deletion" else 0.0):
            assert record["accuracy"] < 0.5  # without the layer
    assert {record["score"] for record in files.load(out / "rankings.npz")} >= {"ite", "depth", "layer_conductance"}


def test_claims_are_checked_by_two_families(run):
    _, out = run
    theory = files.load(out / "theory.npz")
    claims = {(record["claim"], record["variable"]) for record in theory}
    assert claims >= {("data_processing", "input"), ("data_processing", "label"), ("compression", "input")}
    for claim in claims - {("invariance", name) for name in ("position", "size", "contrast")}:
        by = {(r["representation"], r["estimator"].split("(")[0]) for r in theory if (r["claim"], r["variable"]) == claim}
        assert by == set(itertools.product(("activation", "predicted", "contrast"), ("KDE", "Renyi")))
    assert all(record["verdict"] in ("holds", "violated", "undecided", "withheld") for record in theory)
    assert all(record["sentence"] for record in theory)


def test_maps_the_most_and_the_least_typical_image_of_every_class(run):
    _, out = run
    attribution = Attribution.load(out / "attribution.npz")
    assert attribution.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert attribution.kinds == ("most typical", "least typical") * 10
    assert set(attribution.maps) == {"input", "layer2.3"}
    assert set(attribution.sums) == set(LAYERS)


def test_completeness_gap_is_small_after_the_last_nonlinearity(run):
    _, out = run
    plane = ipjax.InformationPlane.load(out / "plane.npz").select(representation="contrast", layer="avgpool")
    assert plane.records[0]["completeness_gap"] < 1e-4


@pytest.mark.slow
def test_same_settings_give_the_same_bytes(run, tmp_path):
    config, out = run
    again = main(replace(config, out=tmp_path / "again"))
    for name in ("layers.csv", "channels.csv"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_a_finished_measurement_is_not_repeated_and_a_damaged_one_is(run, monkeypatch, capfd):
    config, out = run
    before = (out / "layers.csv").read_bytes()
    (out / "layers.csv").unlink()
    (damaged,) = (out / "measured").glob("profile-contrast.*.npz")
    damaged.write_bytes(damaged.read_bytes()[:100])
    measured = []
    profile = ipjax.profile
    monkeypatch.setattr(ipjax, "measure_plane", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(ipjax, "profile", lambda *a, **k: measured.append(k["representation"]) or profile(*a, **k))
    main(config)
    assert (out / "layers.csv").read_bytes() == before
    assert measured == ["contrast"]
    assert "was damaged and is measured again" in capfd.readouterr().err


def test_refuses_a_folder_of_another_run_and_touches_nothing(run):
    config, out = run

    def contents():
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    before = contents()
    for name, value, message in (("num_steps", 3, "num_steps was 2, is 3"), ("crop", 16, "crop was None, is 16")):
        with pytest.raises(ValueError, match=message):
            main(replace(config, **{name: value}))
    assert contents() == before


def test_refuses_a_folder_that_is_not_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds no run of this program"):
        main(Config(num_images=100, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data": "imagenet"}, ValueError, "data: expected digits, imagenet2012, .* or a folder of images, got 'imagenet'"),
        ({"data": "no/such/folder"}, ValueError, "data: expected"),
        ({"num_images": 10}, ValueError, "num_images: expected at least 50"),
        ({"num_steps": 0}, ValueError, "num_steps: expected at least 1"),
        ({"noise": 0.0}, ValueError, "noise: expected a number above 0"),
        ({"noise": float("nan")}, ValueError, "noise: expected a number above 0"),
        ({"clutter": 2.0}, ValueError, "clutter: expected"),
        ({"min_per_class": -1}, ValueError, "min_per_class: expected at least 0"),
        ({"resize": 0}, ValueError, "resize: expected at least 1"),
        ({"crop": 0}, ValueError, "crop: expected at least 1"),
        ({"shard_size": 0}, ValueError, "shard_size: expected at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1"),
        ({"num_workers": -1}, ValueError, "num_workers: expected at least 0"),
        ({"seed": 2**32}, ValueError, "seed: expected"),
        ({"distributed": True, "out": None}, ValueError, "out: expected a folder with --distributed"),
        ({"coordinator": "127.0.0.1:1"}, ValueError, "coordinator, .*: expected only with --distributed"),
        ({"num_processes": 2}, ValueError, "num_processes, .*: expected only with --distributed"),
        ({"process_id": 0}, ValueError, "process_id: expected only with --distributed"),
        ({"distributed": True, "num_processes": 2}, ValueError, "num_processes, process_id: expected both"),
        ({"layers": ("layer9.9",)}, KeyError, "nearest"),
        ({"weights": "missing.safetensors"}, FileNotFoundError, "expected a file"),
        ({"network": "resnet18"}, KeyError, "resnet50"),
        ({"network": "vgg17"}, KeyError, "architecture"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        main(replace(Config(num_images=100, out=tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_images": 60, "min_per_class": 20}, "at least 80, for 20 of each"), ({"num_images": 500}, "at most")],
)
def test_more_images_than_a_folder_can_give_are_refused(settings, message, tmp_path):
    folder_of_images(tmp_path / "images", 4, 25)
    with pytest.raises(ValueError, match=f"num_images: expected {message}"):
        main(replace(Config(data=str(tmp_path / "images"), out=tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()


def test_sizes_of_a_folders_images(tmp_path):
    folder_of_images(tmp_path, 2, 30)
    chosen = {"data_dir": None, "num_images": 50, "min_per_class": 25, "clutter": 1.0, "seed": 0}
    few, default = (
        select(str(tmp_path), preprocessing_of("resnet18", "random", *sizes), **chosen) for sizes in ((48, 40), (None, None))
    )
    assert (few.images.shape, default.images.shape) == ((40, 40, 3), (224, 224, 3))
    assert few.images[0].shape == (40, 40, 3)
    assert np.bincount(few.labels).tolist() == [25, 25]
    sizes = [
        (chosen.settings["preprocessing"]["resize"], chosen.settings["preprocessing"]["crop"]) for chosen in (few, default)
    ]
    assert sizes == [(48, 40), (256, 224)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--weights", "nowhere.pth"), "nowhere.pth"), (("--data", "imagnet2012"), "data: expected digits, imagenet2012")],
)
def test_command_line_prints_the_error_and_no_traceback(arguments, message):
    command = [sys.executable, "-m", "experiments.resnet_ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_figures_of_a_plane_without_nuisances_nulls_or_intervals():
    features = {f"l{i}": np.random.default_rng(i).standard_normal((60, 4)) for i in range(2)}
    labels = np.arange(60) % 3
    plane = ipjax.measure_plane(features, labels, num_null=0, num_subsamples=0)
    profile = ipjax.profile(features, labels, ipjax.estimators.KDE(), "noise", (0.1, 1.0))
    channels = ipjax.measure_channels(features, labels, num_null=1)
    drawn = plotting.figures(plane, profile, channels)
    assert set(drawn) == set(FIGURES)
    for figure in drawn.values():
        figure.draw_without_rendering()


def test_the_input_alone_has_nothing_to_knock_out():
    features = SimpleNamespace(positions=np.arange(60), names=("input",))
    assert measure_ablation(None, None, features, Config(), lambda name, measure: measure()) == ()
