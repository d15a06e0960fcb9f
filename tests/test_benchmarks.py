"""What the benchmarks share: timing, fits, and the page of their numbers."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

import ports
from benchmarks import conductance, environment, scaling
from benchmarks.conductance import _at
from benchmarks.performance import filled
from benchmarks.scaling import series

DOCS = Path(__file__).parents[1] / "docs"


def test_the_environment_tells_the_machine():
    found = environment.environment()
    assert found["processor"] and found["cores"] >= 1 and found["memory_gib"] > 0
    assert {"jax", "numpy"} <= set(found)
    json.dumps(found)


def test_two_sides_are_timed_in_turn():
    calls = []

    def side(name, seconds):
        return lambda: calls.append(name) or time.sleep(seconds)

    found = environment.paired(side("a", 0.03), side("b", 0.01), 3)
    assert calls == ["a", "b", *"abbaab"]
    assert found.a > 0.03 and found.b > 0.01
    assert found.lowest <= found.ratio <= found.highest
    assert 1 < found.ratio < 4


def _allocate(mib):
    before = environment.memory_held()
    values = np.ones(mib * 2**17)
    return before, float(values.sum())


def test_the_peak_of_another_process():
    (before, total), peak = environment.in_process(_allocate, 200)
    assert total == 200 * 2**17
    assert 190 < (peak - before) / 2**20 < 260


def test_numbers_of_other_parts_are_kept(tmp_path):
    out = tmp_path / "numbers.json"
    environment.write(out, {"environment": {}, "errors": [1]})
    assert environment.begin(out)["errors"] == [1] and "processor" in environment.begin(out)["environment"]
    assert set(environment.begin(None)) == {"environment"}
    for damaged in ('{"environment"', "[1]", '{"errors": []}'):
        out.write_text(damaged)
        with pytest.raises(ValueError, match=f"{out}: expected"):
            environment.begin(out)
        assert out.read_text() == damaged
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        environment.begin(tmp_path / "none" / "numbers.json")


def test_exponents_are_of_the_upper_half():
    x = [1, 2, 4, 8, 16]
    row = series("work", "s", "samples", x, [5, 5, 3 * 4**2, 3 * 8**2, 3 * 16**2], "2")
    assert row["exponent"] == pytest.approx(2) and row["fitted"] == "4 to 16"


@pytest.mark.parametrize("x", [3, 8, 12, 50])
def test_power_laws_are_interpolated_and_extrapolated_exactly(x):
    steps = [4, 8, 16, 32]
    assert _at(x, steps, [2 * n**-0.9 for n in steps]) == pytest.approx(2 * x**-0.9)


def test_a_page_is_filled():
    tables = "<!-- file.rows: a_b, c -->\n<!-- end -->\n<!-- file.rows -->\n<!-- end -->\n"
    page = "# A\n<!-- file.environment -->\nold\n<!-- end -->\ntext\n" + tables
    machine = {"processor": "P", "cores": 2, "memory_gib": 3.5, "devices": ["cpu"], "jax": "1.2"}
    rows = [{"a_b": 1, "c": [0.5, 1.25], "d": 123.456}, {"a_b": 2, "d": "x"}]
    text = filled(page, {"file": {"environment": machine, "rows": rows}})
    assert "P, 2 cores, 3.5 GiB; jax 1.2." in text and "old" not in text
    assert "| a b | c |\n| --- | --- |\n| 1 | 0.5 to 1.25 |\n| 2 |  |" in text
    assert "| a b | d |\n| --- | --- |\n| 1 | 123 |\n| 2 | x |" in text
    assert filled(text, {"file": {"environment": machine, "rows": rows}}) == text
    assert filled(page, {}).count("*Not taken yet.*") == 3
    with pytest.raises(ValueError, match="each of 3 tables, found it after 2"):
        filled(page.replace("<!-- end -->", "", 1), {})


@pytest.mark.parametrize("steps", [(), (8,), (8, 8), (16, 8), (0, 8)])
def test_steps_of_the_errors_are_checked_before_anything_is_measured(steps):
    with pytest.raises(ValueError, match="steps: expected at least two numbers"):
        conductance.main(conductance.Config(steps=steps, parts=()))


def test_the_page_has_the_numbers_that_are_there():
    numbers = {path.stem: json.loads(path.read_text()) for path in (DOCS / "performance").glob("*.json")}
    page = (DOCS / "performance.md").read_text()
    assert filled(page, numbers) == page, "run python -m benchmarks.performance"


@pytest.mark.slow
def test_conductance_small(monkeypatch, tmp_path):
    load, pair = ports.load, conductance._pair
    tiny = lambda: load("resnet18", "random", width=4, num_classes=10)  # noqa: E731
    monkeypatch.setattr(ports, "load", lambda name, weights: tiny() if weights == "digits" else load(name, weights))
    monkeypatch.setattr(conductance, "_pair", lambda name: pair("resnet18"))
    monkeypatch.setattr(conductance, "in_process", lambda function, *arguments: (function(*arguments), 2**40))
    for name, value in {"SIDE": 64, "CAPTUMS_STEPS": 8, "REFERENCE": 31}.items():
        monkeypatch.setattr(conductance, name, value)
    monkeypatch.setattr(conductance, "CASES", (conductance.Case("resnet18", 1, 8), conductance.Case("resnet18", 2, 4, 0.5)))
    monkeypatch.setattr(conductance, "NODES", (("resnet18", 2, 4),))
    monkeypatch.setattr(conductance, "PEAKS", (("resnet18", "layer1.0", 8),))
    out = tmp_path / "numbers.json"
    conductance.main(conductance.Config(steps=(4, 8), digits=2, repeats=1, out=out))
    numbers = json.loads(out.read_text())
    assert [row["network"] for row in numbers["errors"]] == 2 * ["digits"] + 2 * ["random weights, 224x224"]
    assert all(row["trapezoid"] > 0 and row["captum"] > 0 for row in numbers["errors"])
    assert all(row["trapezoid"] < row["captum"] for row in numbers["errors"][2:])  # a few units of the other have hardly a kink
    assert numbers["captum_itself"]["difference_of_the_rule"] < 1e-3
    assert numbers["captum_itself"]["captum_200_steps_error"] < 0.2
    assert [row["images"] for row in numbers["speed"]] == [1, 2]
    assert all(row["ours"] > 0 and row["captum"] > 0 for row in numbers["speed"])
    assert numbers["speed"][0]["digits_steps"] >= 1 and numbers["speed"][0]["own_steps"] >= 1
    assert all(numbers["speed"][0][f"{curve}_ratio"] > 0 for curve in conductance.CURVES)
    assert 0 < numbers["node"][0]["share_of_product"] < 1.5
    assert len(numbers["memory"]) == 1


@pytest.mark.slow
def test_scaling_small():
    config = scaling.Config(samples=(200, 400), features=(4, 8), repeats=1)
    rows = list(scaling.estimators(config))
    assert {"KDE, plane with 10 halves", "Probe", "channels, input"} <= {row["what"] for row in rows}
    assert all(np.isfinite(row["exponent"]) and min(row["y"]) > 0 for row in rows)
    times = scaling._times_of_a_run(60)
    steps = {*scaling.STEPS_OF_A_RUN.values(), "plane by KDE", "plane by Probe", "noise profile", "page"}
    assert set(times) == steps and min(times.values()) > 0
