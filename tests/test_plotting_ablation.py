"""Figures of ablations from records as they come back from their files, with and without blocks."""

import numpy as np
import pytest

from ipjax import ablation, files
from ipjax.ablation import Losses
from ipjax.plotting.ablation import figures
from ipjax.ranking import Score, rank_correlations

LAYERS = [f"layer{i}" for i in range(6)]


@pytest.fixture(scope="module")
def records():
    """Made records of blocks, and of the curves of two layers, one ranking and three draws."""
    rng = np.random.default_rng(0)

    def losses():
        return Losses(rng.exponential(size=50), rng.random(50) < 0.8)

    intact = losses()
    found = [ablation._record("block", layer, i, losses(), intact) for i, layer in enumerate(LAYERS)]
    for layer in LAYERS[:2]:
        for ranking, repeat in (("conductance", 0), ("random", 0), ("random", 1), ("random", 2)):
            for curve in ("deletion", "insertion"):
                for share in (0.0, 0.5, 1.0):
                    where = {"ranking": ranking, "curve": curve, "share": share, "num_channels": int(8 * share)}
                    found.append(ablation._record("channels", layer, 0, losses(), intact, **where, repeat=repeat))
    return found


@pytest.fixture(scope="module")
def rankings(records):
    rng = np.random.default_rng(0)
    losses = {"block": {r["layer"]: r["loss"] for r in records if r["kind"] == "block"}}
    scores = [
        Score("ite", dict(zip(LAYERS, rng.random(6), strict=True)), "contrast"),
        Score("depth", {"layer0": 1}, None, True),
    ]
    return rank_correlations(losses, scores, {layer: i for i, layer in enumerate(LAYERS)})


def saved_and_loaded(path, *groups):
    for group in groups:
        files.save(group, path)
        yield files.load(path)


def test_figures_show_what_the_records_say(records, rankings, tmp_path):
    groups = saved_and_loaded(tmp_path / "records.npz", records, ablation.areas(records), rankings)
    found = figures(*groups)
    assert list(found) == ["ablation", "rankings"]
    loss, drop = found["ablation"].axes[:2]
    blocks = [record for record in records if record["kind"] == "block"]
    np.testing.assert_allclose([bar.get_height() for bar in loss.patches], [r["loss"] / np.log(2) for r in blocks])
    np.testing.assert_allclose([bar.get_height() for bar in drop.patches], [r["accuracy_drop"] for r in blocks])
    assert [label.get_text() for label in loss.get_xticklabels()] == LAYERS
    curve = next(line for line in found["ablation"].axes[2].lines if line.get_label() == "conductance")
    expected = [
        r["accuracy"] for r in records if (r["layer"], r["ranking"], r["curve"]) == ("layer0", "conductance", "deletion")
    ]
    np.testing.assert_allclose(curve.get_ydata(), expected)
    texts = [text.get_text() for text in found["rankings"].axes[0].texts]
    assert texts == ["too few layers"]
    found["rankings"].savefig(tmp_path / "rankings.png")


def test_a_network_without_blocks(records, tmp_path):
    channels = [record for record in records if record["kind"] == "channels"]
    found = figures(channels, ablation.areas(channels), ())
    assert list(found) == ["ablation"] and len(found["ablation"].axes) == 2 * 2 + 2
    found["ablation"].savefig(tmp_path / "ablation.png")
