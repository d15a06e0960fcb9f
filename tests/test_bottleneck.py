"""Checks of planes made by hand, where every difference is known, and of measured ones whose truth is known."""

import chex
import numpy as np
import pytest
from scipy import stats

from ipjax import files, measure_plane
from ipjax.bottleneck import check, disagreements, steps
from ipjax.estimators import KDE, GaussianChannel, Probe
from ipjax.information_plane import InformationPlane

WAVE = np.array([-1.0, 0.0, 1.0])  # standard deviation 1
WIDTH = stats.t.ppf(0.975, 2)  # half the width of a 95 % interval of it
CHAIN = {"input": None, "a": "input", "b": "a", "c": "b"}


def rows(estimator="KDE(noise=0.1)", representation="activation", **variables):
    """A record a layer (input, a, b, c) from variable -> values, or (values, size of each layer's halves)."""
    records = []
    for depth, layer in enumerate(CHAIN):
        record = {"representation": representation, "layer": layer, "depth": depth, "num_samples": 9, "seed": 0}
        record |= {"num_subsamples": 3, "input_estimator": estimator if "input" in variables else None}
        record |= {"label_estimator": estimator}
        for variable, values in variables.items():
            values, sizes = values if isinstance(values, tuple) else (values, np.zeros(4))
            record |= {
                f"{variable}_information": values[depth],
                f"{variable}_subsamples": tuple(values[depth] + sizes[depth] * WAVE),
                f"{variable}_ceiling": {"input": 9.0, "label": 2.0}.get(variable, 1.0),
                f"{variable}_saturated": False,
                f"{variable}_null": None if variable == "input" else 0.1,
                f"{variable}_null_upper": None if variable == "input" else 0.2,
            }
        records.append(record)
    return records


def plane(*records):
    return InformationPlane(tuple(records))


def claim(records, name, variable="input", before=CHAIN):
    (found,) = [r for r in check(plane(*records), before) if (r["claim"], r["variable"]) == (name, variable)]
    return found


def test_data_processing_of_values_that_only_fall_holds():
    found = claim(rows(input=[4.0, 3.0, 3.0, 1.0]), "data_processing")
    assert (found["verdict"], found["num_holds"], found["num_violated"], found["num_undecided"]) == ("holds", 3, 0, 0)
    assert (found["value"], found["lower"], found["upper"], found["before"], found["layer"]) == (0.0, 0.0, 0.0, "a", "b")


def test_data_processing_is_violated_by_one_rise():
    found = claim(rows(input=[4.0, 2.0, 2.5, 1.0]), "data_processing")
    assert (found["verdict"], found["num_holds"], found["num_violated"]) == ("violated", 2, 1)
    assert (found["value"], found["before"], found["layer"]) == (0.5, "a", "b")
    assert "from a to b, is 0.72 bits (95 % interval 0.72 to 0.72 bits)" in found["sentence"]
    assert "of the steps 2 hold, 1 are violated. The theorem is about exact information" in found["sentence"]


def test_intervals_of_a_step_are_paired_and_widened_over_the_steps():
    table = steps(plane(*rows(input=([4.0, 3.0, 3.5, 1.0], [0.1, 0.1, 0.3, 0.1]))), CHAIN)
    margins = [WIDTH * np.array([0.0, 0.2, 0.2])[i] for i in range(3)]  # halves that move together leave no spread
    chex.assert_trees_all_close([step["upper"] - step["value"] for step in table], margins, atol=1e-12)
    chex.assert_trees_all_close([step["value"] - step["lower"] for step in table], margins, atol=1e-12)
    wide = stats.t.ppf(1 - 0.025 / 3, 2) * 0.2
    chex.assert_trees_all_close(table[1]["simultaneous_lower"], 0.5 - wide)
    chex.assert_trees_all_close(table[1]["simultaneous_upper"], 0.5 + wide)


@pytest.mark.parametrize(("num_steps", "verdict"), [(3, "undecided"), (1, "violated")])
def test_a_rise_that_is_significant_alone_is_not_among_many(num_steps, verdict):
    size = 0.5 / (WIDTH * 1.2)  # above 0 by its own interval, not by one of three
    records = rows(input=([4.0, 3.0, 3.5, 1.0], [0.0, 0.0, size, size]))
    records = records if num_steps == 3 else records[1:3]
    found = claim(records, "data_processing")
    assert found["verdict"] == verdict
    assert found["num_holds"] == num_steps - 1 and found["value"] == 0.5


@pytest.mark.parametrize(("fall", "verdict"), [(0.99, "undecided"), (1.01, "holds")])
def test_a_fall_holds_from_where_its_own_interval_excludes_a_rise(fall, verdict):
    records = rows(input=([4.0, 3.0, 3.0 - fall * WIDTH * 0.1, 0.0], [0.1, 0.1, 0.2, 0.2]))
    assert steps(plane(*records), CHAIN)[1]["verdict"] == verdict
    assert claim(records, "data_processing")["verdict"] == verdict


def test_steps_follow_the_graph():
    graph = {
        "input": None,
        "a": "input",
        "b": "input",
        "between": "a",
        "c": "between",
    }  # b is a branch; between is not measured
    table = steps(plane(*rows(input=[4.0, 2.0, 3.0, 1.0])), graph)
    assert [(step["before"], step["layer"], step["value"]) for step in table] == [
        ("input", "a", -2.0),
        ("input", "b", -1.0),
        ("a", "c", -1.0),
    ]


def test_steps_that_cannot_be_judged_leave_the_rest_undecided():
    records = rows(input=[9.0, 3.0, 2.0, 1.0])
    records[0]["input_saturated"] = True
    found = claim(records, "data_processing")
    assert (found["verdict"], found["num_holds"], found["num_withheld"]) == ("undecided", 2, 1)
    for record in records:
        record["input_saturated"] = True
    found = claim(records, "data_processing")
    assert (found["verdict"], found["value"], found["num_withheld"]) == ("withheld", None, 3)
    assert found["sentence"].endswith("withheld, because the input axis is saturated at input.")


def test_the_step_that_decides_is_one_that_violates():
    found = claim(rows(input=([4.0, 1.0, 1.5, 2.5], [0.0, 0.0, 0.0, 1.0])), "data_processing")  # b -> c rises more, by chance
    assert (found["verdict"], found["value"], found["before"], found["layer"]) == ("violated", 0.5, "a", "b")
    assert (found["num_violated"], found["num_undecided"]) == (1, 1)


def test_a_rise_that_shuffled_labels_show_as_well_violates_nothing():
    records = rows(label=[1.0, 1.4, 1.4, 1.4])
    assert claim(records, "data_processing", "label")["verdict"] == "violated"
    for record, null in zip(records, (0.1, 0.5, 0.5, 0.5), strict=True):
        record |= {"label_null": null, "label_null_upper": null + 0.1}
    assert claim(records, "data_processing", "label")["verdict"] == "undecided"


def test_steps_between_layers_within_their_nulls_are_withheld():
    """Estimates of nothing rise with the number of features, by their bias."""
    rng = np.random.default_rng(0)
    layers = {f"of {d}": rng.normal(size=(100, d)).astype(np.float32) for d in (1, 2, 5)}
    labels = rng.integers(5, size=100)
    measured = measure_plane(layers, labels, input_information=None, label_information=KDE(0.1))
    assert measured.records[2]["label_information"] > measured.records[0]["label_information"] + 0.1
    found, _ = check(measured, {"of 1": None, "of 2": "of 1", "of 5": "of 2"})
    assert (found["claim"], found["verdict"], found["num_withheld"]) == ("data_processing", "withheld", 2)
    assert "within its null at of 1 and at of 2" in found["sentence"]
    risen = claim(rows(label=[0.1, 0.1, 0.9, 0.9]), "data_processing", "label")
    assert (risen["verdict"], risen["num_withheld"], risen["layer"]) == ("violated", 1, "b")


def test_layers_are_taken_in_the_order_of_their_depth():
    records = rows(input=[9.0, 4.0, 3.0, 1.0])
    assert check(plane(*reversed(records)), CHAIN) == check(plane(*records), CHAIN)


def test_a_layer_without_another_one_is_no_step():
    found = claim(rows(input=[4.0, 3.0, 2.0, 1.0]), "data_processing", before=dict.fromkeys(CHAIN))
    assert (found["verdict"], found["withheld"]) == ("withheld", "no layer of the plane is a function of another one alone")


def test_without_halves_everything_is_withheld():
    records = rows("Probe()", label=[0.5, 1.0, 1.5, 2.0], side=[0.9, 0.8, 0.7, 0.6])
    for record in records:
        record |= {"label_subsamples": None, "side_subsamples": None}
    found = check(plane(*records), CHAIN)
    assert [r["claim"] for r in found] == ["data_processing", "sufficiency", "invariance"]
    assert all(r["verdict"] == "withheld" and "without halves of the sample" in r["sentence"] for r in found)


@pytest.mark.parametrize(
    ("values", "sizes", "verdict"),
    [
        ([9.0, 3.0, 4.0, 2.0], 0.0, "holds"),
        ([9.0, 3.0, 2.0, 4.0], 0.0, "violated"),
        ([9.0, 3.0, 4.0, 4.0], 0.0, "undecided"),
        ([9.0, 3.0, 4.0, 2.0], 0.5, "undecided"),  # the fall of 2 is less than 6.2 x .5
        ([9.0, 3.0, 4.0, 2.0], 0.3, "holds"),
    ],
)
def test_compression_compares_the_last_layer_with_the_highest_after_the_input(values, sizes, verdict):
    found = claim(rows(input=(values, [0.0, 0.0, 0.0, sizes])), "compression")
    highest = max(values[1:3])
    assert (found["verdict"], found["value"], found["layer"]) == (verdict, values[3] - highest, "c")
    assert found["before"] == "ab"[values[1:3].index(highest)]
    margin = stats.t.ppf(1 - 0.025 / 2, 2) * sizes  # the highest of two was picked
    chex.assert_trees_all_close((found["lower"], found["upper"]), (found["value"] - margin, found["value"] + margin))


def test_trend_over_depth():
    falling = claim(rows(input=[0.0, 4.0, 3.0, 2.0]), "compression")
    assert (falling["trend"], falling["trend_lower"], falling["trend_upper"]) == (-1.0, -1.0, -1.0)
    mixed = claim(rows(input=([0.0, 4.0, 3.9, 2.0], [0.0, 0.0, 0.2, 0.0])), "compression")  # in a third of the halves a < b
    margin = WIDTH * np.std([-1, -1, -1 / 3], ddof=1)
    ends = (-1.0, -1.0, -1.0 + margin)
    chex.assert_trees_all_close((mixed["trend"], mixed["trend_lower"], mixed["trend_upper"]), ends)
    assert claim(rows(input=[0.0, 4.0, 4.0, 4.0]), "compression").get("trend") is None


@pytest.mark.parametrize(("layer", "verdict"), [(1, "withheld"), (2, "holds"), (3, "withheld")])
def test_compression_is_withheld_where_its_layers_are_saturated(layer, verdict):
    records = rows(input=[9.0, 5.0, 4.0, 3.0])
    records[layer]["input_saturated"] = True
    assert claim(records, "compression")["verdict"] == verdict


@pytest.mark.parametrize(("last", "size", "verdict"), [(1.95, 0.0, "holds"), (1.85, 0.0, "violated"), (1.95, 0.1, "undecided")])
def test_sufficiency_asks_for_95_percent_of_the_labels_entropy(last, size, verdict):
    found = claim(rows(label=([0.3, 1.0, 1.92, last], [0.0, 0.0, 0.0, size])), "sufficiency", "label")
    assert (found["verdict"], found["layer"], found["reached"], found["threshold"]) == (verdict, "c", "b", 1.9)
    chex.assert_trees_all_close((found["lower"], found["upper"]), (last - WIDTH * size, last + WIDTH * size))
    assert found["sentence"].endswith("shows.") is (verdict == "violated")


def test_sufficiency_is_withheld_where_it_could_not_be_seen():
    low = claim(rows(input=[1.8] * 4, label=[1.0] * 4), "sufficiency", "label")
    assert low["verdict"] == "withheld" and "tells only 2.60 bits apart in all" in low["sentence"]
    assert claim(rows(label=[1.0, 1.0, 1.0, 0.15]), "sufficiency", "label")["withheld"] == "it is within its null"
    above = claim(rows(label=[1.0, 1.0, 1.0, 2.1]), "sufficiency", "label")
    assert above["withheld"] == "the estimate exceeds its ceiling at c"
    assert claim(rows(label=[1.0, 1.0, 1.0, 2.0]), "sufficiency", "label")["verdict"] == "holds"


def test_invariance_is_of_what_is_above_the_null():
    records = rows(label=[1.0] * 4, side=[0.9, 0.8, 0.7, 0.6])
    found = claim(records, "invariance", "side")
    assert (found["verdict"], found["before"], found["layer"]) == ("holds", "a", "c")
    chex.assert_trees_all_close(found["value"], -0.2)
    for record, null in zip(records, (0.8, 0.7, 0.6, 0.5), strict=True):
        record |= {"side_null": null, "side_null_upper": null}
    found = claim(records, "invariance", "side")  # .1 above the null everywhere
    assert found["verdict"] == "undecided" and abs(found["value"]) < 1e-12
    for record in records:
        record["side_null_upper"] = 0.95
    assert claim(records, "invariance", "side")["withheld"] == "it is within its null even where it is highest"
    nothing = rows("Probe()", label=[1.0] * 4, side=[0.0, -0.1, -0.2, -0.3])
    for record in nothing:
        record |= {"side_null": None, "side_null_upper": None}
    assert claim(nothing, "invariance", "side")["verdict"] == "withheld"


def test_an_estimator_of_the_label_alone_is_asked_about_the_label_alone():
    found = check(plane(*rows(input=[3.0] * 4, label=[1.0] * 4), *rows("Probe()", label=[1.0] * 4)), CHAIN)
    assert [(r["estimator"], r["claim"], r["variable"]) for r in found] == [
        ("KDE(noise=0.1)", "data_processing", "input"),
        ("KDE(noise=0.1)", "compression", "input"),
        ("KDE(noise=0.1)", "data_processing", "label"),
        ("KDE(noise=0.1)", "sufficiency", "label"),
        ("Probe()", "data_processing", "label"),
        ("Probe()", "sufficiency", "label"),
    ]
    assert "what a linear probe reads out" in found[4]["sentence"]


def test_a_conductance_is_said_to_be_no_function_of_the_layer_before():
    found = claim(rows(representation="contrast", input=[1.0, 2.0, 3.0, 4.0]), "data_processing")
    assert found["sentence"].endswith("A conductance is no function of the layer before, so the theorem does not ask for it.")


def test_disagreements_are_between_estimators_of_one_representation():
    falls, rises = [4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 2.0, 3.0]
    both = check(
        plane(
            *rows("KDE()", input=falls), *rows("Renyi()", input=rises), *rows("KDE()", representation="contrast", input=rises)
        ),
        CHAIN,
    )
    assert disagreements(both) == (("data_processing", "input", "activation"), ("compression", "input", "activation"))
    assert disagreements([record for record in both if record["estimator"] == "KDE()"]) == ()


def test_records_come_back_from_a_file(tmp_path):
    of_both = plane(*rows(input=[4.0, 3.0, 3.0, 1.0], label=[1.0] * 4, side=[0.5] * 4))
    for table in (check(of_both, CHAIN), steps(of_both, CHAIN)):
        files.save(table, tmp_path / "table.npz")
        loaded = files.load(tmp_path / "table.npz")
        assert [{k: v for k, v in r.items() if v is not None} for r in loaded] == [
            {k: v for k, v in r.items() if v is not None} for r in table
        ]


def test_layers_that_the_graph_lacks_are_refused():
    with pytest.raises(
        ValueError, match=r"before: expected every layer of the plane, 'c' is missing; use ipjax\.graph\.dominators"
    ):
        check(plane(*rows(input=[1.0] * 4)), {"input": None, "a": "input", "b": "a"})


def test_a_layer_before_itself_is_refused():
    with pytest.raises(ValueError, match="'left out' comes before itself"):
        check(plane(*rows(input=[1.0] * 4)), {"input": None, "a": "left out", "left out": "left out", "b": "a", "c": "b"})


def test_planes_that_cannot_be_compared_are_refused():
    with pytest.raises(
        ValueError, match="expected one record a layer, got several of the input information of activation by KDE"
    ):
        check(plane(*rows(input=[1.0] * 4), *rows(input=[1.0] * 4)), CHAIN)
    records = rows(input=[1.0] * 4)
    records[2]["seed"] = 1
    with pytest.raises(ValueError, match="expected the same seed in all layers, got"):
        steps(plane(*records), CHAIN)


def test_chance_seldom_violates_one_of_many_steps():
    rng = np.random.default_rng(0)
    n, num_layers = 100, 21
    graph = {str(i): str(i - 1) if i else None for i in range(num_layers)}
    violated = 0
    for _ in range(100):  # samples in which every layer's "information" is a mean that is 1 in truth
        samples = 1 + rng.normal(size=(n, num_layers))
        halves = np.stack([samples[rng.permutation(n)[: n // 2]].mean(0) for _ in range(10)])
        common = {"representation": "activation", "num_samples": n, "num_subsamples": 10, "seed": 0, "label_estimator": "mean"}
        records = [
            common
            | {"layer": str(i), "depth": i, "label_information": samples[:, i].mean(), "label_subsamples": tuple(halves[:, i])}
            for i in range(num_layers)
        ]
        violated += any(step["verdict"] == "violated" for step in steps(plane(*records), graph))
    assert violated <= 8  # 2.5 expected at most; without Bonferroni about 40


@pytest.fixture(scope="module")
def chain():
    """A chain in which each layer is the one before and more noise, one in which it is the other way round, and labels."""
    rng = np.random.default_rng(0)
    n = 800
    y = np.arange(n) % 2
    layers = {"input": 1.6 * np.stack([y, y], axis=1) + rng.normal(size=(n, 2))}
    for name in ("a", "b", "c"):
        layers[name] = list(layers.values())[-1] + 1.5 * rng.normal(size=(n, 2))
    return layers, dict(zip(layers, reversed(layers.values()), strict=True)), y


def test_a_markov_chain_of_normal_layers_obeys_data_processing(chain):
    falling, rising, y = chain
    common = {"input_information": None, "num_null": 0, "num_subsamples": 6}
    for estimator in (GaussianChannel(), Probe()):
        planes = [measure_plane(layers, y, label_information=estimator, **common) for layers in (falling, rising)]
        holds, violated = (claim(of.records, "data_processing", "label") for of in planes)
        assert (holds["verdict"], holds["num_holds"]) == ("holds", 3)
        assert (violated["verdict"], violated["num_holds"]) == ("violated", 0)
