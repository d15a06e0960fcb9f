"""The report's page: every section from records, none of them needed but the plane; self-contained; what a folder must hold."""

import html
import json
import re

import pytest

from ipjax import files
from ipjax.plotting.style import COLOURS
from ipjax.report import Run, build, charts, compare, loss_charts
from ipjax.report.comparison import accuracy, common, differing, sentences, warnings
from ipjax.report.page import _asset
from ipjax.report.run import RECORDS
from tests import report_records as made

SECTIONS = ("summary", "planes", "kept", "ite", "layers", "leak", "ablation", "rankings", "theory", "attribution", "channels")


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def test_has_every_section_and_nothing_from_elsewhere(tmp_path):
    page = build(Run.load(made.write(tmp_path / "run")))
    assert all(f'id="{section}"' in page for section in SECTIONS)
    assert "Not measured." not in page
    assert "data:image/webp;base64," in page
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "@import" not in page and "url(" not in page
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page).group(1))
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy and "*" not in policy
    assert len(page) < 1_000_000


@pytest.mark.parametrize("missing", ["profile", "channels", "ablation", "areas", "rankings", "theory"])
def test_a_part_that_is_missing_is_said_and_nothing_breaks(missing):
    page = build(made.run(**{missing: ()}))
    assert ("Not measured." in page.split('id="attribution"')[0] + page.split('id="channels"')[1]) == (missing != "areas")


def test_a_bare_plane_makes_a_page():
    records = tuple(made.layer("activation", name, i, 1.0, 4.0) for i, name in enumerate(("a", "b")))
    page = build(Run("bare", records))
    assert page.count("Not measured.") >= 7 and "not known" in page


def test_a_network_without_blocks_says_so():
    page = build(made.run(ablation=tuple(r for r in made.ablation() if r["kind"] == "channels")))
    assert "only networks with residual blocks" in page and "Deletion and insertion" in page


def test_names_are_escaped_in_text_and_in_data():
    nasty = "</script><script>alert(1)</script>&"
    plane = tuple(r | {"layer": nasty} if r["layer"] == "layer1.0" else r for r in made.plane())
    page = build(made.run(nasty, plane=plane, config=made.CONFIG | {"network": nasty}))
    assert "<script>alert" not in page and page.count("</script") == 2
    assert any(p["layer"] == nasty for p in data_of(page)["planes"][0]["panels"][0]["series"][0]["points"])


def test_planes_hold_every_noise_level_with_the_run_s_own_from_the_plane():
    chart = charts.planes([made.run(profile=tuple(r | {"label_information": 2.0} for r in made.profile()))])
    assert chart["levels"] == list(made.NOISES) and chart["own"] == 2
    assert [panel["title"] for panel in chart["panels"]][:2] == ["activation", "conductance to a fixed contrast"]
    point = chart["panels"][0]["series"][0]["points"][-1]
    assert point["layer"] == "avgpool" and point["y"] == pytest.approx(1.8 / made.LN2, abs=1e-4)
    assert point["levels"][2] == [point["x"], point["y"], False]
    assert point["levels"][0][2] and point["levels"][0][0] > point["x"]
    assert any("[" in line for line in point["tip"])


def test_a_noise_that_the_profile_lacks_gets_a_level_of_its_own():
    chart = charts.planes([made.run(config=made.CONFIG | {"noise": 0.2})])
    assert chart["levels"] == [0.01, 0.03, 0.1, 0.2, 0.3, 1.0] and chart["own"] == 3
    assert charts.planes([made.run(config={})])["levels"] == []


def test_random_orders_are_drawn_as_mean_and_extremes():
    chart = loss_charts.channel_curves(made.ablation())
    assert [option["name"] for option in chart["options"]] == ["layer1.0", "layer2.0", "layer3.0"]
    deletion = chart["options"][0]["charts"][0]
    random = next(series for series in deletion["series"] if series["name"] == "random")
    half = next(point for point in random["points"] if point["x"] == 0.5)
    assert [half["l"], half["v"], half["h"]] == pytest.approx([0.95 / made.LN2, 1 / made.LN2, 1.05 / made.LN2], abs=1e-4)


def test_colours_are_those_of_the_figures():
    style = _asset("page.css")
    for name, colour in COLOURS.items():
        assert f"--{name}: light-dark({colour}," in style


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        Run.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="give the folder that a run wrote to"):
        Run.load(tmp_path)
    folder = made.write(tmp_path / "run")
    (folder / "plane.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"plane\.npz missing\); start its command again with --out"):
        Run.load(folder)


@pytest.mark.parametrize("name", ["plane.npz", "theory.npz", "config.json", "attribution.png"])
def test_a_damaged_file_is_named(tmp_path, name):
    folder = made.write(tmp_path / "run")
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        Run.load(folder)


def test_a_damaged_picture_can_be_passed_over(tmp_path):
    folder = made.write(tmp_path / "run")
    (folder / "attribution.png").write_bytes(b"no picture")
    assert not Run.load(folder, pictures=False).pictures


@pytest.mark.parametrize("name", [name for name in RECORDS.values() if name != "second.npz"])
def test_a_file_of_other_records_is_named(tmp_path, name):
    folder = made.write(tmp_path / "run")
    files.save([{"layer": "one", "value": 1.0}], folder / name)
    with pytest.raises(ValueError, match=f"{re.escape(name)} holds other records: expected a column"):
        Run.load(folder)


def test_a_run_without_label_information_is_refused():
    with pytest.raises(ValueError, match="label information"):
        Run("empty", ())


def test_too_large_a_page_is_refused():
    with pytest.raises(ValueError, match="expected at most 6"):
        build(made.run(pictures={"attribution": bytes(5_000_000)}))


def lower(run_plane, share):
    """A plane with less label information, intervals and halves moved along."""
    keys = [f"label_{key}" for key in ("information", "interval_lower", "interval_upper")]
    return tuple(r | {key: share * r[key] for key in keys} if r["input_estimator"] else r for r in run_plane)


def test_runs_are_told_apart_beyond_their_intervals_alone():
    first, second = made.run("first"), made.run("second", plane=lower(made.plane(), 0.5))
    found = {sentence.text: sentence for sentence in sentences([first, second])}
    apart = found[
        "Label information at the last layer (activation) is highest in first and lowest in second, beyond the intervals."
    ]
    assert apart.kind == "found" and "first 2.60 bits" in apart.evidence and "second 1.30 bits" in apart.evidence
    assert found["Accuracy is not shown to differ between the runs."].kind == "unknown"
    page = compare([first, second])
    assert all(name in page for name in ("first", "second", "Settings that differ"))
    assert len(data_of(page)["planes"][0]["panels"][0]["series"]) == 2


def test_settings_without_which_values_do_not_compare_are_warned_of():
    first = made.run("first")
    fewer = tuple(record | {"num_samples": 100} for record in made.plane())
    second = made.run("second", plane=fewer, config=made.CONFIG | {"noise": 0.3, "readout": "channel", "seed": 1})
    texts = [warning.text for warning in warnings([first, second])]
    assert [
        word
        for word in ("noise", "readout", "number of images")
        if any(f"differ in {word}" in t or f"the {word}" in t for t in texts)
    ]
    assert len(texts) == 3
    assert dict(differing([first, second]))["seed"] == ["0", "1"]
    plain = made.run("plain", config=made.CONFIG | {"clutter": 0.0})
    cluttered = made.run("cluttered", config=made.CONFIG | {"clutter": 1.0})
    (warning,) = warnings([plain, cluttered])
    assert warning.text.startswith("The runs differ in clutter: other images carry other information")
    assert not warnings([first, made.run("third")])
    fewer = Run("fewer", lower(fewer, 0.5), config=made.CONFIG)
    texts = [sentence.text for sentence in sentences([first, fewer])]
    assert any(text.endswith("which what does not compare in their settings may explain.") for text in texts)


@pytest.mark.parametrize(("setting", "value", "of_accuracy"), [("layers", ["one"], True), ("clutter", 0.0, False)])
def test_losses_and_accuracy_of_other_layers_and_images_are_told_with_care(setting, value, of_accuracy):
    """That of other layers is the same accuracy, that of other images is not; both are other blocks' losses."""
    costly = tuple(r | {key: r[key] + 5 for key in ("loss", "loss_lower", "loss_upper")} for r in made.run().ablation)
    first = made.run("first", config=made.CONFIG | {"clutter": 1.0}, environment={"accuracy": 0.97})
    second = made.run("second", config=first.config | {setting: value}, environment={"accuracy": 0.5}, ablation=costly)
    texts = [sentence.text for sentence in sentences([first, second])]
    (loss,), (accurate,) = ([t for t in texts if t.startswith(start)] for start in ("Largest loss", "Accuracy"))
    assert loss == (
        "Largest loss by a single block is highest in second and lowest in first, beyond the intervals, "
        "which what does not compare in their settings may explain."
    )
    assert accurate.endswith("beyond the intervals.") == of_accuracy


def test_runs_with_nothing_in_common_are_refused():
    first = Run("first", tuple(r for r in made.plane() if r["representation"] == "activation"))
    second = Run("second", tuple(r for r in made.plane() if r["representation"] == "contrast"))
    with pytest.raises(ValueError, match="first has activation; second has contrast: there is nothing to compare"):
        compare([first, second])
    with pytest.raises(ValueError, match="at least two"):
        compare([first])
    with pytest.raises(ValueError, match="different names"):
        common([first, first])


def test_networks_of_other_depths_and_parts_compare():
    small = Run("small", made.plane(("input", "features.0", "classifier")), config=made.CONFIG)
    page = compare([made.run("whole"), small])
    assert "was measured in fewer than two of the runs" in page
    assert [len(series["points"]) for series in data_of(page)["label"][0]["series"]] == [6, 3]


def test_accuracy_has_wilson_s_interval():
    assert accuracy(made.run(environment={"accuracy": 0.97})) == pytest.approx((0.97, 0.9361, 0.9862), abs=1e-3)
    assert accuracy(made.run(environment={"accuracy": None})) is None
