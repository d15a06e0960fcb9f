"""What the network loses without its parts, what predicts that, and what the theory says, in sentences of records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ipjax.bottleneck import disagreements
from ipjax.files import Record
from ipjax.names import family
from ipjax.report.words import (
    Sentence,
    bits,
    capitalised,
    counted,
    interval,
    interval_in_bits,
    joined,
    listed,
    plain,
    told_apart,
)


def blocks(ablation: Sequence[Record]) -> list[Sentence]:
    """Which block's loss costs most, what is not told apart from it, and how many cost nothing that is shown."""
    records = [record for record in ablation if record["kind"] == "block"]
    if not records:
        return []
    costs = {r["layer"]: (r["loss"], r.get("loss_lower"), r.get("loss_upper")) for r in records}
    most = max(records, key=lambda record: record["loss"])
    ties = [layer for layer in costs if layer != most["layer"] and not told_apart(costs[most["layer"]], costs[layer])]
    accuracy = f"; accuracy falls by {100 * most['accuracy_drop']:.1f} points" if most.get("accuracy_drop") is not None else ""
    if accuracy and most.get("accuracy_drop_lower") is not None:
        accuracy += f" {interval(100 * most['accuracy_drop_lower'], 100 * most['accuracy_drop_upper'], 1)}"
    alike = f" Not told apart from it: {listed(ties)}." if ties else ""
    others = sorted((r for r in records if r["layer"] not in (most["layer"], *ties)), key=lambda r: -r["loss"])
    after = [r for r in others if (r.get("loss_lower") or 0) > 0][:3]
    following = f" Next: {', '.join(joined(r['layer'], bits(r['loss'])) for r in after)}." if after else ""
    bounds = [f"{r['layer']} {interval_in_bits(r['loss_lower'], r['loss_upper'])}" for r in after]
    if most.get("loss_lower") is None or most["loss_lower"] <= 0:
        text = "No single block's loss is shown to cost anything: each interval reaches zero."
        return [Sentence(text, f"largest {most['layer']} {bits(most['loss'])} bits", "unknown", "ablation")]
    shown = f"{bits(most['loss'])} bits {interval_in_bits(most['loss_lower'], most['loss_upper'])}"
    found = [
        Sentence(
            f"Knocking out {most['layer']} costs most: cross-entropy rises by {shown}{accuracy}.{alike}{following}",
            "; ".join([f"{counted(len(records), 'block')}, each alone; {most['num_samples']} images", *bounds]),
            section="ablation",
        )
    ]
    free = [r["layer"] for r in records if r.get("loss_lower") is not None and r["loss_lower"] <= 0]
    if free:
        text = f"{len(free)} of {len(records)} blocks are not shown to cost anything when they alone are knocked out."
        found.append(Sentence(text, listed(free, 8), section="ablation"))
    return found


def channel_areas(areas: Sequence[Record]) -> list[Sentence]:
    """In how many layers removing the channels that conductance ranks first costs more than removing random ones."""
    deletion = {(r["layer"], r["ranking"]): r for r in areas if r["curve"] == "deletion"}
    layers = [layer for layer, ranking in deletion if ranking == "random" and (layer, "conductance") in deletion]
    bounds = {layer: deletion[layer, "random"].get("cross_entropy_area_upper") for layer in layers}
    layers = [layer for layer in layers if bounds[layer] is not None]
    if not layers:
        return []
    worse = [layer for layer in layers if deletion[layer, "conductance"]["cross_entropy_area"] > bounds[layer]]
    text = f"In {len(worse)} of {len(layers)} layers, removing the channels with most conductance first "
    text += "costs more than removing random ones."
    rivals = list(dict.fromkeys(ranking for _, ranking in deletion if ranking not in ("random", "conductance")))
    costly = {
        r: sum(deletion[layer, r]["cross_entropy_area"] > bounds[layer] for layer in layers if (layer, r) in deletion)
        for r in rivals
    }
    if rivals:
        text += f" For other rankings: {listed([f'{words(ranking)} in {count}' for ranking, count in costly.items()])}."
    return [Sentence(text, "area under the deletion curve beyond the spread of random orders", section="ablation")]


def words(key: str) -> str:
    """A record's key as words: label gain."""
    return key.replace("_", " ")


def depth_order(records: Sequence[Record]) -> list[Sentence]:
    """Whether early or late layers cost more, where the interval of the correlation with depth excludes zero."""
    found: dict[str, list[Record]] = {}
    for record in records:
        lower, upper = record.get("correlation_lower"), record.get("correlation_upper")
        if record["score"] == "depth" and lower is not None and upper is not None and (lower > 0 or upper < 0):
            found.setdefault("later" if lower > 0 else "earlier", []).append(record)
    return [
        Sentence(
            f"The {where} a layer lies in the network, the larger tends to be {listed([_what(r) for r in own])}.",
            "rank correlation with depth: "
            + "; ".join(
                f"{plain(r['correlation'])} {_bounds(r, 'correlation')}, {counted(r['num_layers'], 'layer')}" for r in own
            ),
            section="rankings",
        )
        for where, own in found.items()
    ]


def _what(record: Record) -> str:
    return LOSSES.get(str(record["loss"]), str(record["loss"]))


LOSSES = {"block": "the loss of a block", "channels": "the loss of half of a layer's channels"}


def rankings(records: Sequence[Record]) -> list[Sentence]:
    """For each kind of loss, whether any score predicts it beyond what depth predicts; and how ITE ranks the layers."""
    found = []
    by_sign: dict[int, list[tuple[Record, str]]] = {}
    for loss in dict.fromkeys(str(record["loss"]) for record in records):
        own = [record for record in records if record["loss"] == loss]
        found.append(_beyond_depth(own, LOSSES.get(loss, loss)))
        ite = next((r for r in own if r["score"] == "ite" and r["representation"] in ("contrast", None)), None)
        if ite is not None and ite.get("correlation") is not None:
            sign = 1 if (ite.get("correlation_lower") or 0) > 0 else -1 if (ite.get("correlation_upper") or 0) < 0 else 0
            by_sign.setdefault(sign, []).append((ite, _depth(own)))
    return found + [_of_ite(sign, alike) for sign, alike in by_sign.items()]


def _beyond_depth(records: Sequence[Record], what: str) -> Sentence:
    tried = [record for record in records if not record["trivial"]]
    judged = [record for record in tried if record.get("partial") is not None]
    if not judged:
        text = (
            f"Whether a ranking predicts {what} beyond depth is not known: none differs from depth, or the layers are too few."
        )
        return Sentence(text, f"{counted(len(tried), 'score')} tried", "unknown", "rankings")
    best = max(judged, key=lambda record: record["partial"])
    parts = [joined("best:", score(best), plain(best["correlation"]), _bounds(best, "correlation"))]
    parts.append(joined("beyond depth", plain(best["partial"]), _bounds(best, "partial")))
    parts += [_depth(records), counted(best["num_layers"], "layer")]
    ahead = [r for r in judged if (r.get("partial_lower") or 0) > 0 and (r.get("correlation_upper") or 0) >= 0]
    passed = [r for r in ahead if _passes(r, len(tried))]
    if passed:
        text = f"Beyond depth, {what} is predicted by {listed([score(r) for r in passed])}, "
        text += f"of {counted(len(tried), 'score')} tried."
        parts.append(f"also with the interval widened for {counted(len(tried), 'score')}")
    elif ahead:
        text = f"Whether any score predicts {what} beyond depth is not shown: {listed([score(r) for r in ahead])} "
        text += f"would, asked alone; the best of {counted(len(tried), 'score')} can do as well by chance."
        parts.append("each had 1 chance in 40 to pass without any relation")
    else:
        too = ", ITE included," if any(r["score"] == "ite" for r in tried) else ""
        text = f"No ranking of the layers{too} is shown to predict {what} better than plain depth does."
        parts.append(f"{counted(len(tried), 'score')} tried")
    return Sentence(text, "; ".join(filter(None, parts)), "found" if passed else "unknown", "rankings")


def _passes(record: Record, num_tried: int) -> bool:
    """Whether the partial correlation's interval excludes zero also when widened for so many scores (Bonferroni)."""
    value, lower = np.arctanh(np.clip([record["partial"], record["partial_lower"]], -1 + 1e-9, 1 - 1e-9))
    error = (value - lower) / NormalDist().inv_cdf(0.975)
    return bool(value > NormalDist().inv_cdf(1 - 0.025 / num_tried) * error)


def _of_ite(sign: int, records: Sequence[tuple[Record, str]]) -> Sentence:
    """What ITE says of the losses with which it goes alike: each its record, and depth's correlation in words."""
    what = listed([_what(record) for record, _ in records])
    shown = [joined(score(r), plain(r["correlation"]), _bounds(r, "correlation")) for r, _ in records]
    evidence = "; ".join(part for one, (_, depth) in zip(shown, records, strict=True) for part in (one, depth) if part)
    if sign == 0:
        return Sentence(f"ITE is not shown to order the layers by {what}.", evidence, "unknown", "rankings")
    text = f"The higher a layer's ITE, the {'larger' if sign > 0 else 'smaller'} is {what}"
    text += "." if sign > 0 else ": as a mark of the layers that matter, ITE points the wrong way."
    if all(depth and record.get("partial") is None for record, depth in records):
        text += " It ranks the layers as depth does."
    return Sentence(text, evidence, section="rankings")


def _depth(records: Sequence[Record]) -> str:
    depth = next((record for record in records if record["score"] == "depth"), {})
    return (
        joined("depth", plain(depth["correlation"]), _bounds(depth, "correlation"))
        if depth.get("correlation") is not None
        else ""
    )


def score(record: Record) -> str:
    """A score of the layers by its name: ITE (contrast), depth."""
    names = {"ite": "ITE", "num_channels": "number of channels"}
    text = names.get(str(record["score"])) or words(str(record["score"]))
    return f"{text} ({record['representation']})" if record.get("representation") else text


CLAIMS = {
    "data_processing": "data processing (no layer has more information than the layer it is a function of)",
    "compression": "compression (the last layer has less information about the input than an earlier one)",
    "sufficiency": "sufficiency (the last layer has all but 5 % of the label's entropy)",
    "invariance": "invariance (the last layer has less information about a nuisance than an earlier one)",
}


# What a claim's violation does not mean.
VIOLATED = {
    "data_processing": " That refutes no theorem, which is about exact information: here noise follows each layer's own scale, "
    "and a conductance depends on later layers too.",
    "sufficiency": " The layer may have more of the label than passes through the noise.",
}


def theory(records: Sequence[Record]) -> list[Sentence]:
    """For each claim, how many of its checks hold; where estimators contradict each other."""
    found = []
    for claim in dict.fromkeys(str(record["claim"]) for record in records):
        checks = [record for record in records if record["claim"] == claim]
        counts = {v: sum(r["verdict"] == v for r in checks) for v in ("holds", "violated", "undecided", "withheld")}
        text = f"{capitalised(CLAIMS.get(claim, claim))}: "
        text += (
            ", ".join(f"{verdict} in {count}" for verdict, count in counts.items() if count)
            + f" of {counted(len(checks), 'check')}."
        )
        text += VIOLATED.get(claim, "") if counts["violated"] else ""
        parts = [f"by {listed(list(dict.fromkeys(family(r.get('estimator')) for r in checks)))}"]
        split = [f"{claim.replace('_', ' ')} ({variable}, {kind})" for claim, variable, kind in disagreements(checks)]
        parts += [f"estimators disagree on {listed(split)}"] if split else []
        kind = "found" if counts["holds"] + counts["violated"] else "unknown"
        found.append(Sentence(text, "; ".join(parts), kind, "theory"))
    return found


def _bounds(record: Record, key: str) -> str:
    return interval(record.get(f"{key}_lower"), record.get(f"{key}_upper"))
