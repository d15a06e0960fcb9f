"""Planes through training, from the command on: what it finds, writes, refuses, and how it goes on."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ipjax
from experiments.training import checkpoints, log_spaced, restored
from experiments.training_ip import Config, _task, main
from experiments.training_planes import NUM_BINS, Features, features_of, measure
from ipjax import files
from ipjax.estimators import KDE, Binned, mutual_information
from ipjax.models import mlp
from ipjax.plotting import training

SMALL = Config(
    networks=("tanh", "relu"), num_seeds=3, epochs=400, num_checkpoints=7, widths=(10, 6, 4), num_images=400, num_steps=2
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return main(replace(SMALL, out=tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def records(run):
    return files.load(run / "training.npz")


def fall(run, **values):
    """The one record of compression with these values."""
    (found,) = (r for r in files.load(run / "compression.npz") if all(r[key] == value for key, value in values.items()))
    return found


@pytest.mark.slow
def test_with_bins_the_last_tanh_layer_compresses_and_the_last_relu_layer_does_not(run):
    last = {"representation": "activation", "estimator": "binned", "layer": "hidden.2"}
    tanh, relu = (fall(run, network=network, **last) for network in ("tanh", "relu"))
    assert tanh["verdict"] == "compresses"
    assert tanh["drop"] > 0.7 > 0.2 > relu["drop"]
    assert 0 < tanh["largest_epoch"] < 100
    assert relu["verdict"] != "compresses"
    assert relu["rise"] > 1


@pytest.mark.slow
def test_networks_learn(records):
    last = [record for record in records if record["epoch"] == SMALL.epochs]
    first = [record for record in records if record["epoch"] == 0]
    assert min(record["test_accuracy"] for record in last) > 0.5 > 0.35 > max(record["test_accuracy"] for record in first)


@pytest.mark.slow
def test_records_are_complete(records):
    schedule = log_spaced(SMALL.epochs, SMALL.num_checkpoints)
    keys = ("network", "seed", "epoch", "representation", "layer", "estimator")
    got = {tuple(record[key] for key in keys) for record in records}
    assert len(got) == len(records) == 2 * 3 * len(schedule) * 3 * 3 * 3
    for record in records:
        assert 0 <= record["input_information"] <= record["input_ceiling"] + 1e-4
        assert record["label_information"] <= record["label_ceiling"] + 1e-4
        assert record["label_null"] <= record["label_null_upper"]


@pytest.mark.slow
def test_a_record_is_what_the_estimators_say_of_the_features(run, records):
    config = replace(SMALL, networks=("relu",))
    task, epoch = _task("relu", config), SMALL.epochs
    images, labels = task.test[0][:400], task.test[1][:400]
    model = task.build(0)
    with checkpoints(run / "checkpoints" / "relu") as saved:
        params = jax.tree.map(lambda leaf: leaf[1], restored(task, saved, epoch).params)
        course = [
            jax.tree.map(lambda leaf: leaf[1], restored(task, saved, at).params)
            for at in log_spaced(epoch, SMALL.num_checkpoints)
        ]
    net = replace(mlp.as_network(model), params=params)
    features = net.activations(images)[1]["hidden.1"]
    largest = max(jnp.max(replace(net, params=at).activations(images)[1]["hidden.1"]) for at in course)
    cells = np.clip(np.floor(np.asarray(features) / float(largest) * NUM_BINS), 0, NUM_BINS - 1)
    conductance = ipjax.layer_conductance(
        net, images, layers=["hidden.1"], quadrature=ipjax.quadrature.trapezoid(SMALL.num_steps), target="predicted"
    )["hidden.1"]
    asked = {
        ("activation", "binned"): (cells, Binned(NUM_BINS)),
        ("activation", "kde"): (features, KDE(SMALL.noise)),
        ("predicted", "kde"): (conductance, KDE(SMALL.noise)),
    }
    for (representation, estimator), (x, method) in asked.items():
        (record,) = (
            r
            for r in records
            if (r["network"], r["seed"], r["epoch"], r["layer"]) == ("relu", 1, epoch, "hidden.1")
            and (r["representation"], r["estimator"]) == (representation, estimator)
        )
        expected = [float(mutual_information(x, y, method).value) for y in (np.arange(400), labels)]
        got = [record["input_information"], record["label_information"]]
        np.testing.assert_allclose(got, expected, rtol=2e-2 if estimator == "binned" else 1e-3)
        accuracy = np.mean(np.asarray(net(task.test[0])).argmax(-1) == task.test[1])
        assert record["test_accuracy"] == pytest.approx(accuracy, abs=2e-3)


def test_absolute_noise_is_absolute():
    task = _task("tanh", replace(SMALL, num_seeds=1))
    x = np.random.default_rng(0).normal(size=(1, 200, 3)).astype(np.float32)

    def at(scale):
        values = {kind: {"hidden.0": scale * x} for kind in ("activation", "contrast", "predicted")}
        return Features(0, values, np.ones(1), np.ones(1))

    found = measure(task, [at(0.3), at(3.0)], noise=0.1, bounds=None)
    of = {name: [r["input_information"] for r in found if r["estimator"] == name][::3] for name in ("kde", "kde_absolute")}
    assert of["kde"][0] == pytest.approx(of["kde"][1], rel=1e-4)
    assert of["kde_absolute"][1] > of["kde_absolute"][0] + 2
    squared = np.sum((0.3 * x[0][:, None] - 0.3 * x[0][None]) ** 2, axis=-1)
    literal = -np.mean(np.log(np.mean(np.exp(-squared / (2 * 0.1)), axis=1)))
    assert of["kde_absolute"][0] == pytest.approx(literal, rel=1e-4)


def test_a_layer_that_is_dead_has_no_information():
    task = _task("relu", replace(SMALL, num_seeds=1))
    values = {kind: {"hidden.0": np.zeros((1, 200, 3), np.float32)} for kind in ("activation", "contrast", "predicted")}
    found = measure(task, [Features(0, values, np.ones(1), np.ones(1))], noise=0.1, bounds=None)
    assert max(abs(record["input_information"]) + abs(record["label_information"]) for record in found) < 1e-5
    assert {record["num_constant"] for record in found} == {3}


@pytest.mark.slow
def test_features_that_are_not_finite_are_refused(run):
    task = _task("tanh", SMALL)
    with checkpoints(run / "checkpoints" / "tanh") as saved:
        state = restored(task, saved, 0)

        class Diverged:
            def restore(self, epoch, args):
                return jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else leaf, state)

        with pytest.raises(ValueError, match=r"network 'tanh' after epoch 0: .* not finite; training diverged"):
            features_of(task, Diverged(), [0], num_images=60, num_steps=2, seed=0)


@pytest.mark.slow
def test_results_are_there_and_agree(run, records):
    names = {path.name for path in run.iterdir()}
    figures = {
        f"{kind}_{name}.{end}"
        for kind in ("plane", "phases")
        for name in ("binned", "kde", "kde_absolute")
        for end in ("png", "svg")
    }
    tables = {f"{name}.{end}" for name in ("training", "compression") for end in ("npz", "csv")}
    assert names == figures | tables | {"config.json", "environment.json", "checkpoints"}
    lines = (run / "training.csv").read_text().splitlines()
    assert len(lines) == 1 + len(records)
    column = lines[0].split(",").index("epoch")
    assert [int(line.split(",")[column]) for line in lines[1:4]] == [record["epoch"] for record in records[:3]]
    assert "orbax-checkpoint" in json.loads((run / "environment.json").read_text())["versions"]


@pytest.mark.slow
def test_a_run_that_lost_its_last_checkpoints_ends_with_the_same_bytes(run, tmp_path, capsys):
    before = tmp_path / "run"
    shutil.copytree(run, before)
    for path in before.glob("training.*"):
        path.unlink()
    shutil.rmtree(before / "checkpoints" / "relu")
    shutil.rmtree(before / "checkpoints" / "tanh" / str(SMALL.epochs))
    main(replace(SMALL, out=before))
    for name in ("training.csv", "compression.csv"):
        assert (before / name).read_bytes() == (run / name).read_bytes()
    printed = capsys.readouterr().out
    assert "activation of hidden.2 by binned: compresses; I(X;C) falls by" in printed


@pytest.mark.slow
def test_other_settings_are_refused(run):
    with pytest.raises(ValueError, match=r"holds a run with other settings .epochs was 400, is 401"):
        main(replace(SMALL, epochs=401, out=run))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"networks": ()}, "networks: expected one or more of tanh, relu and resnet"),
        ({"networks": ("tanh", "tanh")}, "networks: expected one or more .* each once"),
        ({"num_seeds": 0}, "num_seeds: expected at least 1, got 0"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"num_checkpoints": 5}, "num_checkpoints: expected at least 6, got 5"),
        ({"widths": (4, 0)}, "widths: expected at least one hidden layer"),
        ({"num_images": 897}, "num_images: expected from 50 to 896, got 897"),
        ({"noise": 0.0}, "noise: expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number above 0"),
        ({"seed": -1}, "seed: expected an integer from 0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        main(replace(SMALL, out=tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_figures_draw_the_records_in_bits(records):
    chosen = [record for record in records if record["estimator"] == "kde"]
    figure = training.figures(chosen)["phases_kde"]
    (ax,) = (ax for ax in figure.axes if ax.get_title() == "tanh: activation")
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    rows = [r for r in chosen if (r["network"], r["representation"], r["layer"]) == ("tanh", "activation", "hidden.2")]
    expected = [
        np.mean([r["input_information"] for r in rows if r["epoch"] == epoch]) / np.log(2)
        for epoch in sorted({r["epoch"] for r in rows})
    ]
    np.testing.assert_allclose(drawn["hidden.2"], expected)
    with pytest.raises(ValueError, match="records: expected at least one, got none"):
        training.figures([])


@pytest.mark.slow
def test_the_command_runs_with_a_resnet(tmp_path):
    small = "--networks resnet --resnet-seeds 2 --resnet-epochs 2 --resnet-width 2 --num-checkpoints 6 --num-steps 2"
    command = [
        sys.executable,
        "-m",
        "experiments.training_ip",
        *small.split(),
        "--num-images",
        "60",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resnet: test accuracy" in done.stdout
    layers = {record["layer"]: record["num_features"] for record in files.load(tmp_path / "run" / "training.npz")}
    assert [*layers][::9] == ["maxpool", "avgpool"]
    refused = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True)
    assert refused.returncode == 2 and "other settings" in refused.stderr
