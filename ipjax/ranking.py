"""Whether scores of the layers predict what the network loses without them: rank correlations, also beyond depth.

Spearman's rank correlation with the interval of Bonett and Wright 2000 ("Sample size requirements for estimating Pearson,
Kendall and Spearman correlations"): Fisher's z with standard error sqrt((1 + rho²/2) / (n - 3)). Depth is controlled by the
partial correlation of the ranks, with one degree of freedom less. Layers of one network are no independent sample: neighbours
have much in common, so the intervals are what independent layers would give, too narrow if anything; and no correction is made
for asking about many scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from ipjax.files import Record

FEWEST = 5  # layers
BEYOND, NO_MORE, NOT_SHOWN, REVERSED, TOO_FEW, CONSTANT = VERDICTS = (
    "predicts the loss beyond depth",
    "predicts the loss, not shown to do more than depth",
    "not shown to predict the loss",
    "predicts it the wrong way round",
    "too few layers",
    "the score or the loss does not vary",
)
LOSSES = {"block": "knocking a block out", "channels": "replacing a random half of a layer's channels"}
SCORES = {
    "ite": "ITE",
    "label_information": "label information",
    "label_gain": "label gain",
    "layer_conductance": "layer conductance",
    "depth": "depth",
    "num_channels": "number of channels",
    "activation_norm": "activation norm",
}
REPRESENTATIONS = {
    "activation": "the activation",
    "contrast": "conductance to a fixed contrast",
    "predicted": "conductance to the predicted class",
}


@dataclass(frozen=True)
class Score:
    """A number for each layer, larger where the layer should matter more; `None` where withheld.

    **Attributes:**

    - `name`: one of `SCORES`, or another.
    - `representation`: what of the layer is scored, if it has several.
    - `trivial`: needs no measurement of information; what the others are to be compared with.
    """

    name: str
    values: Mapping[str, float | None]
    representation: str | None = None
    trivial: bool = False


def layer_losses(ablation: Sequence[Record]) -> dict[str, dict[str, float]]:
    """`"block"`, `"channels"` -> layer -> loss in nats, from the records of `ipjax.ablation`: of knocking out the block, and of
    replacing a random half of the channels, the mean over draws."""
    blocks = {record["layer"]: record["loss"] for record in ablation if record["kind"] == "block"}
    halves: dict[str, list[float]] = {}
    for record in ablation:
        if (record["ranking"], record["curve"], record["share"]) == ("random", "deletion", 0.5):
            halves.setdefault(record["layer"], []).append(record["loss"])
    return {"block": blocks, "channels": {layer: float(np.mean(losses)) for layer, losses in halves.items()}}


def layer_scores(
    plane: Sequence[Record],
    *,
    activation: Mapping[str, ArrayLike],
    conductance: Mapping[str, Mapping[str, ArrayLike]],
    before: Mapping[str, str | None] | None = None,
) -> tuple[Score, ...]:
    """Scores of the layers: ITE, label information and label gain of every representation, layer conductance, and trivial ones.

    **Arguments:**

    - `plane`: records of `ipjax.measure_plane` with `ite`; those with both axes from one estimator are used.
    - `activation`: layer -> `[n, channels]`, mean activations, for the number of channels and the activation norm (mean over
        images of the length of these means).
    - `conductance`: representation -> layer -> `[n, channels]`, for layer conductance: mean over images of the sum over
        channels of |conductance of the channel|.
    - `before`: layer -> the layer that label gain is counted from, `None` for none; default: the one before in the plane.

    **Raises:** `ValueError` where a layer has several records of a representation.
    """
    of_both_axes = [r for r in plane if r["input_estimator"] is not None and r["input_estimator"] == r["label_estimator"]]
    planes: dict[str, dict[str, Record]] = {}
    for record in of_both_axes:
        of_layers = planes.setdefault(record["representation"], {})
        if record["layer"] in of_layers:
            raise ValueError(
                f"plane: expected one record of layer {record['layer']!r} and {record['representation']!r}, got several; "
                "choose with plane.select(label_estimator=...)"
            )
        of_layers[record["layer"]] = record
    scores = []
    for representation, records in planes.items():
        label = {layer: record["label_information"] for layer, record in records.items()}
        last = dict(zip(records, (None, *records), strict=False)) if before is None else before
        pairs = ((layer, last.get(layer)) for layer in records)
        gain = {layer: label[layer] - label[earlier] for layer, earlier in pairs if earlier in label}
        scores.append(Score("ite", {layer: record["ite"] for layer, record in records.items()}, representation))
        scores.append(Score("label_information", label, representation))
        scores.append(Score("label_gain", gain, representation))
    for representation, layers in conductance.items():
        size = {layer: float(np.abs(np.asarray(values)).sum(axis=1).mean()) for layer, values in layers.items()}
        scores.append(Score("layer_conductance", size, representation))
    depth = {record["layer"]: record["depth"] for record in of_both_axes}
    num_channels = {layer: np.shape(values)[1] for layer, values in activation.items()}
    norm = {layer: float(np.linalg.norm(np.asarray(values), axis=1).mean()) for layer, values in activation.items()}
    scores += [Score("depth", depth, trivial=True), Score("num_channels", num_channels, trivial=True)]
    return (*scores, Score("activation_norm", norm, trivial=True))


def rank_correlations(
    losses: Mapping[str, Mapping[str, float]], scores: Sequence[Score], depth: Mapping[str, float]
) -> tuple[Record, ...]:
    """How well each score ranks the layers by what the network loses without them.

    **Arguments:**

    - `losses`: kind -> layer -> loss, see `layer_losses`. Kinds without layers are left out.
    - `scores`: see `layer_scores`. Layers without a value, or without a loss, are left out.
    - `depth`: layer -> its place in the network.

    **Returns** a record a loss and score: `loss`, `score`, `representation`, `trivial`, `correlation` and `partial`
    (beyond depth), each with `_lower` and `_upper`, `num_layers`, `verdict` (one of `VERDICTS`) and `sentence`. The partial
    correlation is `None` where the loss or the score ranks the layers exactly as depth does. Of fewer than 5 layers all are
    `None`. A correlation of ±1, whose z is infinite, gets the interval of one with two neighbours in exchanged places.

    **Raises:** `KeyError` for a layer without depth, `ValueError` for a NaN, which has no rank.
    """
    unknown = [layer for by_layer in losses.values() for layer in by_layer if layer not in depth]
    if unknown:
        raise KeyError(f"depth: expected a number for every layer with a loss, has none for {', '.join(map(repr, unknown))}")
    records = []
    for kind, by_layer in losses.items():
        for score in scores if by_layer else ():
            layers = [layer for layer in by_layer if score.values.get(layer) is not None]
            columns = [np.array([values[layer] for layer in layers], float) for values in (by_layer, score.values, depth)]
            if where := [layer for layer, *values in zip(layers, *columns, strict=True) if np.isnan(values).any()]:
                raise ValueError(
                    f"{kind} and {title(score.name, score.representation)}: expected numbers, found NaN at {', '.join(where)}; "
                    "give None where a score is withheld"
                )
            record: Record = {"loss": kind, "score": score.name, "representation": score.representation}
            record |= {"trivial": score.trivial, **_correlations(*columns), "num_layers": len(layers)}
            record["verdict"] = _verdict(record)
            records.append(record | {"sentence": _sentence(record)})
    return tuple(records)


def title(score: str, representation: str | None) -> str:
    """A score's name in words, for sentences and figures: "ITE of the activation"."""
    name = SCORES.get(score, score)
    if representation is None:
        return name
    of = REPRESENTATIONS.get(representation, representation)
    return f"layer {of}" if score == "layer_conductance" and of.startswith("conductance") else f"{name} of {of}"


def _correlations(loss: np.ndarray, score: np.ndarray, depth: np.ndarray) -> Record:
    plain = partial = (None, None, None)
    n = len(loss)
    if n >= FEWEST and np.ptp(loss) > 0 and np.ptp(score) > 0:
        ranks = np.array([_ranks(values) for values in (loss, score, depth)])
        of_score, of_depth, depths = (np.corrcoef(ranks[i], ranks[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2)))
        plain = _interval(of_score, n, n - 3)
        rest = (1 - of_depth**2) * (1 - depths**2)
        if rest > 1e-12:
            partial = _interval((of_score - of_depth * depths) / np.sqrt(rest), n, n - 4)
    names = [f"{name}{end}" for name in ("correlation", "partial") for end in ("", "_lower", "_upper")]
    return dict(zip(names, (*plain, *partial), strict=True))


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1 on, of equal values the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _interval(rho: float, n: int, freedom: int) -> tuple[float, float, float]:
    rho = float(np.clip(rho, -1, 1))
    largest = 1 - 12 / (n * (n**2 - 1))
    inside = np.clip(rho, -largest, largest)
    margin = NormalDist().inv_cdf(0.975) * np.sqrt((1 + inside**2 / 2) / freedom)
    lower, upper = np.tanh(np.arctanh(inside) + np.array([-margin, margin]))
    return rho, min(rho, float(lower)), max(rho, float(upper))


def _verdict(record: Record) -> str:
    if record["num_layers"] < FEWEST:
        return TOO_FEW
    if record["correlation"] is None:
        return CONSTANT
    if record["correlation_upper"] < 0:
        return REVERSED
    if record["partial"] is not None and record["partial_lower"] > 0:
        return BEYOND
    return NO_MORE if record["correlation_lower"] > 0 else NOT_SHOWN


def _sentence(record: Record) -> str:
    what = title(record["score"], record["representation"])
    what = what[0].upper() + what[1:]
    loss = LOSSES.get(record["loss"], record["loss"])
    if record["correlation"] is None:
        return f"{what} against the loss of {loss}: {record['verdict']} ({record['num_layers']} layers)."
    text = f"{what} correlates with the loss of {loss} by {_numbers(record, 'correlation')} over {record['num_layers']} layers"
    if record["partial"] is not None:
        text += f", beyond depth by {_numbers(record, 'partial')}"
    return f"{text}: {record['verdict']}."


def _numbers(record: Record, name: str) -> str:
    return f"{record[name]:+.2f} [{record[f'{name}_lower']:+.2f}, {record[f'{name}_upper']:+.2f}]"
