"""Rank correlations against SciPy and literal formulas, verdicts on made layers, scores from made planes."""

import chex
import numpy as np
import pytest
from scipy import stats

from ipjax import ranking
from ipjax.ranking import Score, layer_losses, layer_scores, rank_correlations

N = 16
LAYERS = [f"layer{i}" for i in range(N)]
DEPTH = dict(zip(LAYERS, range(N), strict=True))


def by_layer(values):
    return dict(zip(LAYERS, map(float, values), strict=False))


def one(loss, score, **settings):
    (record,) = rank_correlations({"block": by_layer(loss)}, [Score("ite", score, "contrast", **settings)], DEPTH)
    return record


def test_correlations_match_scipy_and_the_residuals_of_the_ranks():
    rng = np.random.default_rng(0)
    loss, score = rng.normal(size=(2, N)).round(1) + np.arange(N) / 5  # some ties
    record = one(loss, by_layer(score))
    rho = stats.spearmanr(loss, score).statistic
    ranks = [stats.rankdata(values) for values in (loss, score)]
    rest = [rank - np.polyval(np.polyfit(np.arange(N), rank, 1), np.arange(N)) for rank in ranks]
    partial = np.corrcoef(*rest)[0, 1]
    for name, value, freedom in (("correlation", rho, N - 3), ("partial", partial, N - 4)):
        margin = 1.959964 * np.sqrt((1 + value**2 / 2) / freedom)
        expected = [value, np.tanh(np.arctanh(value) - margin), np.tanh(np.arctanh(value) + margin)]
        chex.assert_trees_all_close(np.array([record[f"{name}{end}"] for end in ("", "_lower", "_upper")]), np.array(expected))
    assert record["num_layers"] == N and record["representation"] == "contrast" and record["trivial"] is False


def test_the_interval_covers():
    rng, rho, covered = np.random.default_rng(0), 0.6, 0
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's, of the bivariate normal distribution
    for _ in range(400):
        loss, noise = rng.normal(size=(2, N))
        record = one(loss, by_layer(rho * loss + np.sqrt(1 - rho**2) * noise))
        covered += record["correlation_lower"] <= truth <= record["correlation_upper"]
    assert 0.92 <= covered / 400 <= 0.985


def test_verdicts():
    rng = np.random.default_rng(1)
    depth = np.arange(N)
    own = rng.permutation(N)  # says something that depth does not
    assert one(own, by_layer(own + 0.1 * depth))["verdict"] == "predicts the loss beyond depth"
    noisy = [depth + rng.normal(size=N) * 2 for _ in range(2)]
    assert one(noisy[0], by_layer(noisy[1]))["verdict"] == "predicts the loss, not shown to do more than depth"
    assert one(own, by_layer(rng.permutation(N)))["verdict"] == "not shown to predict the loss"
    assert one(own, by_layer(-own))["verdict"] == "predicts it the wrong way round"
    assert one(own, by_layer(np.ones(N)))["verdict"] == "the score or the loss does not vary"


def test_depth_itself_has_no_partial_correlation():
    record = one(np.random.default_rng(0).normal(size=N) + np.arange(N), DEPTH, trivial=True)
    assert record["correlation_lower"] > 0 and record["trivial"]
    assert record["partial"] is record["partial_lower"] is record["partial_upper"] is None
    assert record["verdict"] == "predicts the loss, not shown to do more than depth"
    exact = one(np.exp(np.arange(N)), DEPTH)  # an infinite z
    assert exact["correlation"] == exact["correlation_upper"] == 1 and 0.9 < exact["correlation_lower"] < 1


def test_withheld_layers_are_left_out():
    rng = np.random.default_rng(0)
    loss, score = rng.normal(size=(2, N))
    some = {layer: value if i % 2 else None for i, (layer, value) in enumerate(by_layer(score).items())}
    record = one(loss, some)
    assert record["num_layers"] == 8
    assert record["correlation"] == pytest.approx(stats.spearmanr(loss[1::2], score[1::2]).statistic)
    few = one(loss, dict(list(by_layer(score).items())[:4]))
    assert few["verdict"] == "too few layers" and few["num_layers"] == 4
    assert all(few[f"{name}{end}"] is None for name in ("correlation", "partial") for end in ("", "_lower", "_upper"))
    assert few["sentence"].endswith("too few layers (4 layers).")


def test_a_sentence_says_it_all():
    loss = np.random.default_rng(1).permutation(N)
    sentence = one(loss, by_layer(loss))["sentence"]
    assert sentence.startswith(
        "ITE of conductance to a fixed contrast correlates with the loss of knocking a block out by +1.00 ["
    )
    assert "over 16 layers, beyond depth by +1.00 [" in sentence and sentence.endswith(": predicts the loss beyond depth.")


def test_a_layer_without_depth_is_an_error():
    with pytest.raises(KeyError, match="has none for 'new'"):
        rank_correlations({"block": {"new": 1.0}}, [Score("ite", {})], DEPTH)
    assert rank_correlations({"block": {}}, [Score("ite", {})], DEPTH) == ()


def test_losses_of_blocks_and_of_random_halves():
    def record(kind, layer, loss, ranking=None, curve=None, share=None):
        return {"kind": kind, "layer": layer, "loss": loss, "ranking": ranking, "curve": curve, "share": share}

    records = [record("block", "a", 0.5)]
    records += [record("channels", "b", loss, "random", "deletion", 0.5) for loss in (1.0, 2.0)]
    records += [record("channels", "b", 9.0, *rest) for rest in (("random", "insertion", 0.5), ("random", "deletion", 0.1))]
    records += [record("channels", "b", 9.0, "conductance", "deletion", 0.5)]
    assert layer_losses(records) == {"block": {"a": 0.5}, "channels": {"b": 1.5}}


def test_scores_from_a_plane():
    def record(layer, depth, label, ite, label_estimator="KDE()", input_estimator="KDE()"):
        found = {"representation": "contrast", "layer": layer, "depth": depth, "label_information": label, "ite": ite}
        return found | {"label_estimator": label_estimator, "input_estimator": input_estimator}

    plane = [
        record("a", 0, 1.0, None),
        record("b", 1, 1.5, 0.2),
        record("c", 2, 1.2, 0.4),
        record("a", 0, 9, None, "P()", None),
    ]
    channels = {"a": np.array([[3.0, -4.0], [0.0, 5.0]]), "b": np.ones((2, 3)), "c": np.ones((2, 1))}
    arguments = {"activation": channels, "conductance": {"contrast": channels}}
    scores = {score.name: score for score in layer_scores(plane, **arguments)}
    assert set(scores) == set(ranking.SCORES)
    assert dict(scores["ite"].values) == {"a": None, "b": 0.2, "c": 0.4}
    assert dict(scores["label_information"].values) == {"a": 1.0, "b": 1.5, "c": 1.2}
    assert scores["label_gain"].values == pytest.approx({"b": 0.5, "c": -0.3})
    assert scores["layer_conductance"].values == pytest.approx({"a": 6.0, "b": 3.0, "c": 1.0})
    assert scores["activation_norm"].values == pytest.approx({"a": 5.0, "b": 3**0.5, "c": 1.0})
    assert dict(scores["num_channels"].values) == {"a": 2, "b": 3, "c": 1}
    assert dict(scores["depth"].values) == {"a": 0, "b": 1, "c": 2}
    assert [score.name for score in scores.values() if score.trivial] == ["depth", "num_channels", "activation_norm"]
    skipping = {s.name: s for s in layer_scores(plane, **arguments, before={"a": None, "b": None, "c": "a"})}
    assert skipping["label_gain"].values == pytest.approx({"c": 0.2})
    with pytest.raises(ValueError, match="expected one record of layer 'a' and 'contrast', got several"):
        layer_scores([*plane, plane[0]], **arguments)


def test_nan_has_no_rank():
    score = by_layer(np.arange(N)) | {"layer3": np.nan}
    with pytest.raises(ValueError, match="NaN at layer3; give None"):
        one(np.arange(N), score)
    assert one(np.arange(N), score | {"layer3": None})["num_layers"] == N - 1
