"""Steps chosen for a tolerance: the error that they leave, against many more steps; what is refused; runs that choose them."""

import itertools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from emulated_devices import check, free_port, start
from safetensors.numpy import load_file, save_file

import ipjax
import ports
from experiments.resnet_ip import main
from experiments.runner import Config
from ipjax.data.digits import digits_in_clutter
from ipjax.quadrature import left, rescale, trapezoid
from ipjax.readout import CountSketch
from ipjax.tolerance import relative_error

LAYERS = ("input", "layer0", "layer1", "layer2")
SKETCH = CountSketch(16)


def mlp(weights, x, tap):
    for i, w in enumerate(weights[:-1]):
        x = tap(f"layer{i}", jax.nn.relu(x @ w))
    return x @ weights[-1]


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)
    sizes = (20, 64, 64, 64, 5)
    shapes = itertools.pairwise(sizes)
    return ipjax.from_function(mlp, [jnp.asarray(rng.normal(size=s) / np.sqrt(s[0] / 2), jnp.float32) for s in shapes])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((16, 20)).astype(np.float32)


def conductance(net, x, num_steps, readout=SKETCH, rule=trapezoid, baseline=0.0):
    rule = rule(num_steps)
    return ipjax.layer_conductance(net, x, target="contrast", baseline=baseline, quadrature=rule, readout=readout)


def steps_for(net, x, tolerance, **settings):
    return ipjax.steps_for(net, x, tolerance, **{"target": "contrast", "readout": SKETCH} | settings)


@pytest.mark.parametrize("rule", [trapezoid, rescale])
@pytest.mark.parametrize("tolerance", [0.1, 0.03, 0.01])
def test_the_true_error_is_under_the_tolerance_and_not_far(net, x, tolerance, rule):
    baseline = x[::-1]  # on a path from zero, this network without biases has kinks nowhere else
    steps, exact = steps_for(net, x, tolerance, rule=rule, baseline=baseline), conductance(net, x, 2048, baseline=baseline)

    def worst(num_steps):
        values = conductance(net, x, num_steps, rule=rule, baseline=baseline)
        return max(relative_error(values[name], exact[name]) for name in LAYERS)

    assert tuple(steps.error) == LAYERS and steps.worst_layer in LAYERS
    assert max(steps.error.values()) <= tolerance
    assert worst(steps.num_steps) <= tolerance
    assert worst(max(1, steps.num_steps // 3)) > tolerance  # by theory √3 times fewer steps do at best


@pytest.mark.slow
def test_the_true_error_of_a_trained_network_is_under_the_tolerance():
    net, x = ports.load("resnet50", "digits"), digits_in_clutter("test", 6).images
    steps = steps_for(net, x, 0.05)
    values, exact = (conductance(net, x, n) for n in (steps.num_steps, 1024))
    assert max(relative_error(values[name], exact[name]) for name in exact) <= 0.05


def test_the_estimates_are_distances_of_the_sums_of_half_as_many_steps(net, x):
    steps = steps_for(net, x, 0.01, readout=None)
    sums = [conductance(net, x, n, readout=None) for n in (8, 16, 32)]
    assert list(steps.history)[:2] == [16, 32]
    for errors, coarse, fine in zip(steps.history.values(), sums, sums[1:], strict=False):
        for name in LAYERS:
            assert errors[name] == pytest.approx(relative_error(coarse[name], fine[name]), rel=1e-3, abs=1e-6)  # of rounding


def test_twice_chosen_is_the_same_and_less_tolerance_takes_more(net, x):
    first, again, tighter = steps_for(net, x, 0.04), steps_for(net, x, 0.04), steps_for(net, x, 0.02)
    assert first == again
    assert 1.6 * first.num_steps < tighter.num_steps < 2.5 * first.num_steps


def test_kinks_at_random_places_have_the_errors_that_theory_says():
    # F = Σ relu(h - b): the gradient of h jumps at b. Exact is C = h - b; at equal rates on both sides D² / 3 is the variance.
    x = np.random.default_rng(0).uniform(1, 2, (4000, 1)).astype(np.float32)
    net = ipjax.from_function(lambda b, x, tap: jax.nn.relu(tap("h", x) - b), jnp.ones(1) / 2)
    sums = [ipjax.layer_conductance(net, x, layers=["h"], target=0, quadrature=trapezoid(n))["h"] for n in (16, 32)]
    d, error = (np.sqrt(np.mean(np.square(values))) for values in (sums[0] - sums[1], sums[1] - (x - 0.5)))
    assert d / error == pytest.approx(np.sqrt(3), rel=0.05)


def test_smooth_networks_need_the_fewest_steps():
    net = ipjax.from_function(lambda w, x, tap: jnp.tanh(tap("h", jnp.tanh(x @ w))), jnp.eye(3))
    steps = ipjax.steps_for(net, np.ones((2, 3), np.float32), 0.05)
    assert steps.num_steps == 8 and max(steps.error.values()) < 0.05


def test_an_image_without_conductance_has_no_error():
    zeros, ones = jnp.zeros((1, 3)), jnp.ones((1, 3))
    assert relative_error(jnp.concatenate([zeros, 1.5 * ones]), jnp.concatenate([zeros, ones])) == pytest.approx(0.25)
    assert relative_error(ones, zeros) == np.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance: expected a relative error above 0, as 0.02, got 0.0"),
        ({"tolerance": float("nan")}, "tolerance: expected a relative error above 0"),
        ({"tolerance": float("inf")}, "tolerance: expected a relative error above 0"),
        ({"tolerance": 0.1, "most": 8}, "most: expected an integer of at least 16 steps, got 8"),
        ({"tolerance": 0.1, "most": 64.0}, "most: expected an integer"),
        ({"tolerance": 0.001, "most": 20}, r"tolerance: 0.001 is not reached, 16 steps leave about 0\.\d+ in layer '"),
        ({"tolerance": 0.1, "rule": left}, "rule: expected ipjax.quadrature.trapezoid or rescale, got <function left"),
        ({"tolerance": 0.1, "target": 5}, "target"),
        ({"tolerance": 0.1, "target": np.ones((2, 16, 5), np.float32)}, "target: expected one, got several"),
    ],
)
def test_bad_input_is_refused(net, x, settings, message):
    with pytest.raises(ValueError, match=message):
        steps_for(net, x, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_file(ports.export(ports.load("resnet18", "random", width=4, num_classes=10, seed=0)), folder / "net.safetensors")
    config = Config(network="resnet18", weights=str(folder / "net.safetensors"), num_images=64, tolerance=0.1)
    config = replace(config, layers=("layer3.1", "avgpool"), ablation=False, compiled=folder / "compiled", out=folder / "run")
    return config, main(config)


def test_a_run_chooses_its_steps_and_says_so(run):
    _, out = run
    path = json.loads((out / "environment.json").read_text())["path"]
    assert 8 <= path["num_steps"] <= 128
    assert path["worst_layer"] in ("layer3.1", "avgpool")
    assert set(path["estimated_error"]) == {"predicted", "contrast", "random"}
    assert 0 < max(path["estimated_error"].values()) <= 0.1
    page = (out / "report.html").read_text()
    assert "path.num_steps" in page and "path.estimated_error.contrast" in page and "tolerance" in page


def test_a_resumed_run_takes_the_same_steps_without_a_pilot(run, monkeypatch):
    config, out = run
    (out / "layers.csv").unlink()
    (shard,) = (out / "features").iterdir()
    path, before = json.loads((out / "environment.json").read_text())["path"], load_file(shard)
    shard.unlink()
    monkeypatch.setattr(ipjax, "steps_for", lambda *_, **__: pytest.fail("chosen again"))
    main(config)
    assert (out / "layers.csv").exists()
    assert json.loads((out / "environment.json").read_text())["path"] == path
    after = load_file(shard)
    assert all(np.array_equal(after[name], values) for name, values in before.items())


@pytest.mark.slow
def test_two_runs_choose_the_same_steps(run, tmp_path):
    config, out = run
    again = main(replace(config, out=tmp_path / "again"))
    for name in ("layers.csv", "channels.csv"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.1, "num_steps": 32}, "num_steps, tolerance: expected one of them, got 32 and 0.1"),
        ({"tolerance": 0.0}, "tolerance: expected a relative error above 0"),
        ({"tolerance": float("nan")}, "tolerance: expected a relative error above 0"),
    ],
)
def test_a_run_refuses_bad_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(Config(num_images=64, out=tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_hosts_take_the_same_steps(tmp_path):
    save_file(ports.export(ports.load("resnet18", "random", width=4, num_classes=10, seed=0)), tmp_path / "net.safetensors")
    settings = {"network": "resnet18", "weights": tmp_path / "net.safetensors", "num-images": 64, "shard-size": 16}
    settings |= {"tolerance": 0.1, "compiled": tmp_path / "compiled"}
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    arguments += ["--layers", "layer1.1", "avgpool"]
    check(start("experiments.resnet_ip", *arguments, "--out", str(tmp_path / "one"), devices=1))
    together = ("--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id")
    check(
        *(
            start("experiments.resnet_ip", *arguments, "--out", str(tmp_path / "two"), *together, str(i), devices=1)
            for i in (0, 1)
        )
    )
    one, two = (json.loads((tmp_path / name / "environment.json").read_text())["path"] for name in ("one", "two"))
    assert one == two
