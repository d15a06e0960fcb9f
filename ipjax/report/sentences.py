"""What a run found, in plain sentences: pure functions of records, each sentence with its evidence.

A sentence claims a difference only where its 95 % interval excludes zero; otherwise it says that nothing was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ipjax.assessment import within_null
from ipjax.files import Record
from ipjax.names import family, nuisance
from ipjax.report.losses import blocks, channel_areas, depth_order, rankings, theory
from ipjax.report.run import RECORDS, Run
from ipjax.report.words import (
    Sentence,
    bits,
    change,
    flags,
    interval,
    interval_in_bits,
    joined,
    listed,
    name,
    nuisances,
    of,
    plain,
    representations,
    told_apart,
)


def summary(run: Run) -> list[Sentence]:
    """All that can be said of a run, findings first."""
    plane = run.plane
    found = [
        *blocks(run.ablation),
        *depth_order(run.rankings),
        *rankings(run.rankings),
        *channel_areas(run.areas),
        *(s for key in representations(plane) if key != "predicted" for s in label_course(of(plane, key))),
        *(s for key in representations(plane)[:1] for s in nuisance_course(of(plane, key))),
        *efficiency(plane),
        *leakage(plane),
        *theory(run.theory),
        *cautions(plane),
        *probed(plane),
        *of_noise(run.profile),
        *families((*plane, *run.second)),
        *unknown(run),
    ]
    order = ("found", "caution", "unknown")
    return sorted(found, key=lambda sentence: order.index(sentence.kind))


def label_course(records: Sequence[Record]) -> list[Sentence]:
    """How label information goes from the first layer to the last (of one representation), and its largest step."""
    records = [record for record in records if record["layer"] != "input"] or list(records)
    first, last = records[0], records[-1]
    who = name(last["representation"])
    if len(records) < 2:
        if within_null(last):
            text = f"Label information in {who} is not shown at {last['layer']}: shuffled labels give as much."
            return [Sentence(text, _evidence(last), "unknown")]
        text = f"Label information in {who} is {bits(last['label_information'], 1)} bits at {last['layer']}."
        return [Sentence(text, _evidence(last))]
    if within_null(last) and within_null(first):
        text = f"Label information in {who} is shown neither at {first['layer']} nor at {last['layer']}: "
        text += "shuffled labels give as much."
        return [Sentence(text, f"{_evidence(first)}; {_evidence(last)}", "unknown")]
    value, lower, upper = change(first, last, "label")
    ends = f"bits at {first['layer']} to {bits(last['label_information'], 1)} at {last['layer']} {_of(last, 1)}".rstrip()
    start = bits(first["label_information"], 1)
    ceiling = last.get("label_ceiling")
    most = f", of the {bits(ceiling, 1)} bits that the labels hold" if ceiling is not None else ""
    if lower is None or upper is None:
        text = f"Label information in {who} goes from {start} {ends}{most}; without an interval, no change is shown."
        return [Sentence(text, f"change {bits(value)} bits", "unknown")]
    if lower <= 0 <= upper:
        text = f"Label information in {who} is not shown to change with depth: {start} {ends}."
    else:
        text = f"Label information in {who} {'rises' if value > 0 else 'falls'} from {start} {ends}{most}."
    text += f" Shuffled labels give {_null(first, 1)} and {_null(last, 1)}."
    evidence = f"change {bits(value)} bits {interval_in_bits(lower, upper)}"
    steps = [(*change(a, b, "label"), a, b) for a, b in pairwise(records)]
    size, step_lower, step_upper, before, after = max(steps, key=lambda step: step[0])
    if len(records) > 2 and step_lower is not None and step_lower > 0:
        text += f" The largest single gain is between {before['layer']} and {after['layer']}: {bits(size)} bits."
        evidence += f"; gain {interval_in_bits(step_lower, step_upper)}"
    return [Sentence(text, evidence)]


def nuisance_course(records: Sequence[Record]) -> list[Sentence]:
    """What the layers keep, first to last, of what does not decide the label (of one representation), above the null."""
    records = [record for record in records if record["layer"] != "input"] or list(records)
    first, last = records[0], records[-1]
    if len(records) < 2:
        return []
    found = []
    for variable in nuisances(records):
        value, lower, upper = change(first, last, variable, null=True)
        start, end = (r[f"{variable}_information"] - (r.get(f"{variable}_null") or 0) for r in (first, last))
        if lower is None or upper is None or lower <= 0 <= upper:
            how = "is not shown to change"
        else:
            how = "falls" if value < 0 else "rises"
        text = f"{nuisance(variable)} {how} ({bits(start)} to {bits(end)} bits)"
        found.append((text, f"{nuisance(variable)}: {bits(value)} {interval_in_bits(lower, upper)}".rstrip()))
    if not found:
        return []
    text = f"Information about what does not decide the label, from {first['layer']} to {last['layer']} "
    text += f"in {name(first['representation'])}, above the null: "
    return [
        Sentence(
            text + "; ".join(t for t, _ in found) + ".", "change in bits, " + "; ".join(e for _, e in found), section="kept"
        )
    ]


def efficiency(plane: Sequence[Record]) -> list[Sentence]:
    """Where ITE is highest, for the contrast if it was measured, and which layers are not told apart from there."""
    with_ite = [key for key in representations(plane) if any(r.get("ite") is not None for r in of(plane, key))]
    if not with_ite:
        reasons = dict.fromkeys(r["ite_withheld"] for r in plane if r.get("ite_withheld"))
        text = "ITE is withheld at every layer" if reasons else "ITE was not measured"
        return [Sentence(text + ".", listed(list(reasons)), "unknown", "ite")]
    key = "contrast" if "contrast" in with_ite else with_ite[0]
    records = [record for record in of(plane, key) if record.get("ite") is not None]
    values = {r["layer"]: (r["ite"], r.get("ite_lower"), r.get("ite_upper")) for r in records}
    best = max(values, key=lambda layer: values[layer][0])
    least = min(values, key=lambda layer: values[layer][0])
    ties = [layer for layer in values if layer != best and not told_apart(values[best], values[layer])]
    text = f"Of what {name(key)} keeps of the input, the share about the label (ITE) is "
    text += f"largest at {best}: {plain(values[best][0])}"
    if len(values) > 1:
        text += f"; smallest at {least}: {plain(values[least][0])}"
    evidence = [f"{best} {interval(*values[best][1:])}", f"{least} {interval(*values[least][1:])}"]
    nulls = {r["layer"]: r["label_null"] / r["input_information"] for r in records if r.get("label_null") is not None}
    if best in nulls and least in nulls:
        evidence.append(f"shuffled labels give {plain(nulls[best])} and {plain(nulls[least])}")
    if ties:
        evidence.append(f"not told apart from {best}: {listed(ties)}")
    return [Sentence(text + ".", "; ".join(evidence), section="ite")]


def leakage(plane: Sequence[Record]) -> list[Sentence]:
    """How much choosing the predicted class as a target adds, by each estimator."""
    found = []
    for method in dict.fromkeys(r["label_estimator"] for r in plane if r.get("leak") is not None):
        records = [r for r in plane if r.get("leak") is not None and r["label_estimator"] == method]
        most = max(records, key=lambda record: record["leak"])
        by = f"by {family(method)}"
        if most.get("leak_lower") is None:
            text = f"The leak {by} is largest at {most['layer']}, {bits(most['leak'])} bits; "
            text += "without an interval, it is not shown to be one."
        elif most["leak_lower"] <= 0:
            text = f"No leak of the target is shown {by}: the predicted class adds no label information beyond the interval."
        else:
            text = f"Choosing the predicted class as the target leaks the label: at {most['layer']} it adds "
            text += f"{bits(most['leak'])} bits {by} to what the fixed contrast tells."
        parts = [interval_in_bits(most.get("leak_lower"), most.get("leak_upper"))]
        if most.get("leak_null") is not None:
            parts.append(f"a class at random gives {bits(most['leak_null'])} bits")
        same = [
            r for r in plane if r["layer"] == most["layer"] and r.get("leak") is not None and r["label_estimator"] != method
        ]
        parts += [f"there by {family(r['label_estimator'])}: {bits(r['leak'])} bits" for r in same]
        kind = "unknown" if most.get("leak_lower") is None else "found"
        found.append(Sentence(text, "; ".join(filter(None, parts)), kind, "leak"))
    return found


def cautions(plane: Sequence[Record]) -> list[Sentence]:
    """What makes the plane's numbers less than they look, counted over layers and representations."""
    records = [record for key in representations(plane) for record in of(plane, key)]
    marked = {
        flag: [r for r in records if flag in flags(r)]
        for flag in ("saturated", "within null", "ITE withheld", "sample size", "few images")
    }
    words = {
        "saturated": "input information is saturated: it tells the number of images, not the layer",
        "within null": "label information is not above that of shuffled labels",
        "ITE withheld": "ITE is withheld",
        "sample size": "a value would move by more than its interval with more images: compare layers, not absolute bits",
        "few images": "a class has fewer than 20 images",
    }
    found = [
        Sentence(
            f"At {len(there)} of {len(records)} points {words[flag]}.",
            listed(list(dict.fromkeys(f"{r['layer']} ({r['representation']})" for r in there))),
            "caution",
            "layers",
        )
        for flag, there in marked.items()
        if there
    ]
    gaps = [r for r in records if (r.get("completeness_gap") or 0) > 0.1]
    if gaps:
        text = f"At {len(gaps)} points the conductance misses more than 10 % of the target's change: "
        text += "the layer is no cut, or more steps are needed."
        found.append(
            Sentence(text, listed([f"{r['layer']} {100 * r['completeness_gap']:.0f} %" for r in gaps]), "caution", "layers")
        )
    return found


def probed(plane: Sequence[Record]) -> list[Sentence]:
    """Where a linear classifier reads more of the label from the activations than the plane shows, and gains it elsewhere."""
    key = next(iter(representations(plane)), None)
    records = [
        r for r in plane if r["representation"] == key and r["layer"] != "input" and r.get("label_information") is not None
    ]
    own = {r["layer"]: r for r in records if r.get("input_information") is not None}
    probe = {r["layer"]: r for r in records if family(r["label_estimator"]) == "Probe" and r["layer"] in own}
    if key is None or len(probe) < 3 or len(probe) != len(own):
        return []
    more = {layer: r["label_information"] - own[layer]["label_information"] for layer, r in probe.items()}
    layer = max(more, key=lambda name: more[name])
    if more[layer] < 0.1 * (own[layer].get("label_ceiling") or 0) or more[layer] <= 0:
        return []
    by = family(own[layer]["label_estimator"])
    text = (
        f"A linear classifier (Probe) reads {bits(probe[layer]['label_information'], 1)} bits of the label from {name(key)} of "
    )
    text += f"{layer}, where {by} shows {bits(own[layer]['label_information'], 1)}: "
    text += "the planes show what passes through the noise, not all that a layer has."
    gains = {}
    for method, values in ((by, own), ("Probe", probe)):
        ordered = sorted(values.values(), key=lambda r: r["depth"])
        before, after = max(pairwise(ordered), key=lambda pair: pair[1]["label_information"] - pair[0]["label_information"])
        gains[method] = f"{before['layer']} to {after['layer']}"
    return [Sentence(text, f"largest gain: {'; '.join(f'{who} {where}' for who, where in gains.items())}", "caution", "layers")]


def of_noise(profile: Sequence[Record]) -> list[Sentence]:
    """How the last layer's label information depends on the noise, where the noise profile was measured."""
    key = next(iter(representations(profile)), None)
    records = [r for r in profile if r["representation"] == key and r.get("label_information") is not None]
    last = [r for r in records if r["depth"] == max(record["depth"] for record in records)]
    last.sort(key=lambda record: record["noise"])
    if key is None or len(last) < 2:
        return []
    values = [r["label_information"] for r in last]
    text = f"How many bits there are depends on the noise: of the label {name(key)} of {last[0]['layer']} tell "
    text += f"{bits(max(values), 1)} to {bits(min(values), 1)} bits at noise {last[0]['noise']:g} to {last[-1]['noise']:g}. "
    text += "Verdicts on absolute bits, such as sufficiency, are verdicts at one noise level."
    evidence = "; ".join(f"noise {r['noise']:g}: {bits(r['label_information'])}" for r in last)
    return [Sentence(text, evidence, "caution", "planes")]


def families(plane: Sequence[Record]) -> list[Sentence]:
    """Where another estimator of label information sees the opposite change from the first layer to the last."""
    found = []
    for key in representations(plane):
        directions = {}
        for method in dict.fromkeys(r["label_estimator"] for r in plane if r["representation"] == key):
            records = [
                r for r in plane if r["representation"] == key and r["label_estimator"] == method and r["layer"] != "input"
            ]
            values = [
                r["label_information"]
                for r in sorted(records, key=lambda r: r["depth"])
                if r.get("label_information") is not None
            ]
            if len(values) > 1:
                directions[family(method)] = values[-1] - values[0]
        if len(directions) > 1 and min(directions.values()) < 0 < max(directions.values()):
            changes = "; ".join(f"{method} {bits(value)} bits" for method, value in directions.items())
            text = f"Estimators disagree on whether label information in {name(key)} rises or falls with depth."
            found.append(Sentence(text, changes, "caution", "layers"))
    return found


NOT_MEASURED = {
    "profile": "how far the planes depend on the noise level",
    "channels": "what single channels tell",
    "ablation": "what the network loses without a block or channels",
    "rankings": "whether any score predicts which layers matter",
    "theory": "whether the theory's predictions hold",
}


def unknown(run: Run) -> list[Sentence]:
    """What this run cannot say: what it did not measure, and what no run of this kind measures."""
    found = []
    missing = [what for key, what in NOT_MEASURED.items() if not getattr(run, key)]
    if missing:
        files = ", ".join(RECORDS[key] for key in NOT_MEASURED if not getattr(run, key))
        found.append(Sentence(f"Not measured in this run: {listed(missing, 9)}.", f"no {files}", "unknown", "settings"))
    if run.environment.get("accuracy") is None:
        text = "The network's accuracy on these images is not known: its classes are not those of the data."
        found.append(Sentence(text, "", "unknown", "settings"))
    if run.config.get("weights") == "random":
        text = "The weights are random: nothing here tells about a trained network."
        found.append(Sentence(text, "weights: random", "caution", "settings"))
    text = (
        "Intervals cover the choice of images alone: not the training's seed, the estimators' bias, the baseline of the path "
        "or the noise level. This is one network."
    )
    found.append(Sentence(text, "see the noise slider for the last of these", "unknown", "planes"))
    return found


def _evidence(record: Record) -> str:
    interval_there = _of(record, 2)
    return joined(f"{record['layer']} {bits(record['label_information'])} bits", interval_there, f"shuffled {_null(record)}")


def _of(record: Record, digits: int) -> str:
    return interval_in_bits(record.get("label_interval_lower"), record.get("label_interval_upper"), digits)


def _null(record: Record, digits: int = 2) -> str:
    return bits(record.get("label_null"), digits)
