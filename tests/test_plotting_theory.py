"""The figure of the checks: every record is in it, with its verdict, number and interval, in bits."""

from collections import Counter

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from ipjax import bottleneck
from ipjax.information_plane import InformationPlane
from ipjax.plotting import theory

BEFORE = {"input": None, "a": "input", "b": "a"}
NAT = np.log(2)  # a bit


def rows(estimator, representation, about_input, label):
    common = {"representation": representation, "num_samples": 9, "num_subsamples": 2, "seed": 0, "label_estimator": estimator}
    return [
        common
        | {"layer": layer, "depth": depth, "input_estimator": estimator if about_input else None, "label_ceiling": 2 * NAT}
        | {"label_information": label[depth] * NAT, "label_subsamples": (label[depth] * NAT,) * 2}
        | {"input_information": about_input[depth] * NAT if about_input else None, "input_saturated": False}
        | {"input_subsamples": (about_input[depth] * NAT,) * 2 if about_input else None}
        for depth, layer in enumerate(BEFORE)
    ]


@pytest.fixture(scope="module")
def drawn():
    records = rows("KDE(noise=0.1)", "activation", [3.0, 2.0, 3.5], [0.5, 1.0, 1.95])
    records += rows("Probe()", "activation", None, [0.5, 1.0, 1.0])
    records += rows("Probe()", "own", None, [0.5, 0.25, 0.25])
    records[5] |= {"label_subsamples": None}  # the last layer by the probe
    plane = InformationPlane(tuple(records))
    checked, steps = bottleneck.check(plane, BEFORE), bottleneck.steps(plane, BEFORE)
    return checked, steps, theory.figures(checked, steps)["theory"]


def test_cells_have_verdict_number_and_interval_in_bits(drawn):
    checked, _, figure = drawn
    ax = figure.axes[0]
    colours = Counter(to_hex(patch.get_facecolor()) for patch in ax.patches if isinstance(patch, Rectangle))
    verdicts = Counter(record["verdict"] for record in checked)
    assert verdicts == {"violated": 5, "holds": 2, "withheld": 1}
    assert colours == {theory.VERDICTS[verdict][1].lower(): count for verdict, count in verdicts.items()}
    texts = [text.get_text() for text in ax.texts]
    assert all(texts.count(theory.VERDICTS[verdict][0]) == count for verdict, count in verdicts.items())
    assert {"+1.50", "+1.50 to +1.50", "+0.95", "+0.05", "withheld", "activation", "own"} <= set(texts)  # 1.95 - .95 x 2 = .05


def test_columns_and_rows_are_named(drawn):
    ax = drawn[2].axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["KDE", "Probe", "Probe"]
    assert [tick.get_text().split("\n")[0] for tick in ax.get_yticklabels()] == [
        "Data processing, input",
        "Data processing, label",
        "Compression of the input",
        "Sufficiency for the label",
    ]


def test_steps_are_drawn_and_filled_where_they_violate(drawn):
    _, steps, figure = drawn
    above, _, below, _ = figure.axes[1:]
    filled, open_ = (np.concatenate([line.get_ydata() for line in above.lines[1 + i :: 3]]) for i in range(2))
    np.testing.assert_allclose((filled, open_), ([1.5], [-1.0]))  # of the input: from a to b it rises by 1.5 bits
    assert [tick.get_text() for tick in below.get_xticklabels()] == ["→ a", "→ b"]
    values = np.concatenate([line.get_ydata() for line in below.lines if line.get_marker() == "o"])
    own = [
        s["value"] for s in steps if (s["representation"], s["variable"]) == ("activation", "label") and s["value"] is not None
    ]
    np.testing.assert_allclose(sorted(values), sorted(np.array(own) / NAT))


def test_without_steps_there_is_the_matrix_alone(drawn):
    assert len(theory.figures(drawn[0], ())["theory"].axes) == 1
