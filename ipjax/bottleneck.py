"""Do the predictions of the information bottleneck hold for a measured plane: data processing, compression, sufficiency,
invariance to nuisances. Each is a statement with an interval that holds, is violated, or is undecided at this sample size.

Tishby and Zaslavsky 2015 (arXiv:1503.02406); Shwartz-Ziv and Tishby 2017 (arXiv:1703.00810); for invariance Achille and Soatto
2018 (arXiv:1706.01350); for what can fail Saxe et al. 2018 (ICLR) and Goldfeld et al. 2019 (arXiv:1810.05728).

What is checked is the quantity that an estimator names, not "the" information. Data processing is a theorem for the exact
information of a layer that is a function of another one. It need not hold of

- information seen through noise that is scaled to each layer anew (KDE, GaussianChannel), the order of Rényi's entropy and a
  kernel of each layer's own width, or what a linear probe reads out: a nonlinear layer can bring information into its reach;
- features that are not the whole layer (a readout), which do not determine the next layer's;
- a conductance: its gradient depends on what comes after the layer, so that it is no function of the layer before at all.

A violation therefore says something of the quantity; the theorem stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ipjax.assessment import spread, within_null
from ipjax.files import Record
from ipjax.information_plane import InformationPlane
from ipjax.names import BITS, family, nuisance
from ipjax.ranking import REPRESENTATIONS

SUFFICIENT = 0.95  # of H(Y)
_ROUNDING = 1e-4  # nats: what estimates in single precision cannot tell apart
_OF_STEP = ("value", "lower", "upper", "simultaneous_lower", "simultaneous_upper")


def check(plane: InformationPlane, before: Mapping[str, str | None]) -> tuple[Record, ...]:
    """Every claim about every representation by every estimator of a plane.

    **Arguments:**

    - `plane`: from `measure_plane` with `num_subsamples`; the last of its layers is the network's, or what you take for it.
    - `before`: layer -> the layer it is a function of alone, `ipjax.graph.dominators` of the network, for all layers of the
        plane. A layer that the plane lacks is passed over to the one before it.

    **Returns** a record a claim, representation and estimator with `claim`, `variable`, `representation`, `estimator`,
    `verdict`, `value`, `lower`, `upper` (nats, a 95 % interval from the halves of the sample), `layer`, `before` (where
    it is decided), `sentence`, and:

    - `"data_processing"`, of `"input"` and `"label"`: no layer has more information than the layer it is a function of.
        Violated where the rise of any step is above 0 by its simultaneous interval (Bonferroni over the steps), holds
        where none of the steps' own 95 % intervals reaches above 0. `value` is the largest rise (of those that violate it,
        if any do), with its simultaneous interval; `num_holds`, `num_violated`, `num_undecided`, `num_withheld` count the
        steps, see `steps`.
    - `"compression"`: the last layer has less information about the input than an earlier one. `value` is I(X; C) of the
        last layer less that of the highest before it, the input itself not counted (no reader of the planes of one network
        would call that compression), with an interval that is simultaneous over the layers, one of which was picked. Holds
        below 0, violated above. `trend`, `trend_lower`, `trend_upper`: Kendall's τ between information and depth. It says
        nothing of compression in the course of training, for which planes of several checkpoints are needed.
    - `"sufficiency"`: the last layer has at least 95 % of the label's entropy. `value` is I(C; Y) there, `threshold` 95 % of
        H(Y) in nats, `reached` the first layer whose value reaches it (a conductance to a class chosen by looking at the
        image may be told the label, see `ipjax.target_leakage`).
    - `"invariance"`, of each nuisance: the last layer has less information about it than an earlier one; as compression, of the
        information above its null where the null was measured.

    Withheld, with the reason in the sentence: without halves; where the axis of the input is saturated or an estimate exceeds
    its ceiling, at the layers in question; sufficiency and invariance of what is within its null, and a step between two layers
    within theirs, whose estimates differ by their bias alone; sufficiency by an estimator whose I(X; C) is below 95 % of H(Y),
    which could not reach it. An estimator of the label alone is asked about the label alone.

    **Raises:** `ValueError` where a layer is not in `before` or comes before itself, where a layer has several records of one
    representation and estimator, and where they were not measured on the same halves.
    """
    found = []
    every = steps(plane, before)
    for representation, estimator, variable, rows in _groups(plane):
        about = {"variable": variable, "representation": representation, "estimator": estimator}
        if variable in ("input", "label"):
            own = [step for step in every if all(step[key] == value for key, value in about.items())]
            found.append({"claim": "data_processing"} | about | _data_processing(own, about))
        if variable == "input":
            found.append({"claim": "compression"} | about | _with_trend(_fall(rows, variable), rows))
        elif variable == "label":
            found.append({"claim": "sufficiency"} | about | _sufficiency(rows))
        else:
            found.append({"claim": "invariance"} | about | _fall(rows, variable))
    return tuple(record | {"sentence": _sentence(record)} for record in found)


def steps(plane: InformationPlane, before: Mapping[str, str | None]) -> tuple[Record, ...]:
    """The rise of information over every step before -> layer, of the input and of the label; arguments as `check` has them.

    **Returns** a record a step, representation, estimator and `variable` with `before`, `layer`, `depth`, `value` (nats, the
    layer's less that of the one before), `lower`, `upper` (its own 95 % interval from the halves, which both layers share),
    `simultaneous_lower`, `simultaneous_upper` (with 95 % for all steps together) and `verdict` on "does not rise": holds by its
    own interval, violated by the simultaneous one even less the rise of the null, else undecided; or withheld, with the
    reason in `withheld`.
    """
    found = []
    for representation, estimator, variable, rows in _groups(plane):
        if variable not in ("input", "label"):
            continue
        by_layer = {row["layer"]: row for row in rows}
        pairs = [(by_layer.get(_nearest(layer, before, by_layer) or ""), row) for layer, row in by_layer.items()]
        pairs = [(first, row) for first, row in pairs if first is not None]
        for first, row in pairs:
            found.append(
                {
                    "variable": variable,
                    "representation": representation,
                    "estimator": estimator,
                    "before": first["layer"],
                    "layer": row["layer"],
                    "depth": row["depth"],
                }
                | _step(first, row, variable, len(pairs))
            )
    return tuple(found)


def disagreements(records: Sequence[Record]) -> tuple[tuple[str, str, str], ...]:
    """Claim, variable and representation, among records of `check`, that one estimator finds to hold and another violated."""
    verdicts: dict[tuple[str, str, str], set[str]] = {}
    for record in records:
        verdicts.setdefault((record["claim"], record["variable"], record["representation"]), set()).add(record["verdict"])
    return tuple(key for key, found in verdicts.items() if {"holds", "violated"} <= found)


def _groups(plane: InformationPlane) -> list[tuple[str, str, str, list[Record]]]:
    """Representation, estimator, variable and the records that have it, in forward order."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in plane.records:
        for key, value in record.items():
            if key.endswith("_information") and value is not None:
                variable = key.removesuffix("_information")
                estimator = record["input_estimator" if variable == "input" else "label_estimator"]
                groups.setdefault((record["representation"], estimator, variable), []).append(record)
    for (representation, estimator, variable), rows in groups.items():
        what = f"{variable} information of {representation} by {estimator}"
        if len({row["layer"] for row in rows}) < len(rows):
            raise ValueError(f"plane: expected one record a layer, got several of the {what}; choose with plane.select(...)")
        for key in ("num_samples", "num_subsamples", "seed"):
            if len(values := {row.get(key) for row in rows}) > 1:
                raise ValueError(f"plane: expected the same {key} in all layers, got {sorted(map(str, values))} in the {what}")
    return [(*key, sorted(rows, key=lambda row: row["depth"])) for key, rows in groups.items()]


def _nearest(layer: str, before: Mapping[str, str | None], present: Mapping[str, Record]) -> str | None:
    at: str | None = layer
    passed = set()
    while at is not None:
        if at in passed:
            raise ValueError(f"before: {at!r} comes before itself; use ipjax.graph.dominators(net, x, layers)")
        passed.add(at)
        if at not in before:
            raise ValueError(
                f"before: expected every layer of the plane, {at!r} is missing; use ipjax.graph.dominators(net, x, layers)"
            )
        at = before[at]
        if at in present:
            return at
    return None


def _step(first: Record, row: Record, variable: str, num_steps: int) -> Record:
    reason = _unusable(first, variable) or _unusable(row, variable)
    if reason is None and within_null(first, variable) and within_null(row, variable):
        reason = f"it is within its null at {first['layer']} and at {row['layer']}"
    if reason:
        return dict.fromkeys(_OF_STEP) | {"verdict": "withheld", "withheld": reason}
    value = row[f"{variable}_information"] - first[f"{variable}_information"]
    halves = np.subtract(row[f"{variable}_subsamples"], first[f"{variable}_subsamples"])
    margin, wide = spread(halves), spread(halves, among=num_steps)
    # Where shuffled labels rise as well, by that much the rise is the estimator's bias.
    of_null = max(0.0, (row.get(f"{variable}_null") or 0.0) - (first.get(f"{variable}_null") or 0.0))
    verdict = "holds" if value + margin <= _ROUNDING else "violated" if value - of_null - wide > _ROUNDING else "undecided"
    numbers = (value, value - margin, value + margin, value - wide, value + wide)
    return dict(zip(_OF_STEP, numbers, strict=True)) | {"verdict": verdict, "withheld": None}


def _data_processing(own: Sequence[Record], about: Record) -> Record:
    if not own:
        return _withheld("no layer of the plane is a function of another one alone")
    counts = {name: sum(step["verdict"] == name for step in own) for name in ("holds", "violated", "undecided", "withheld")}
    counted = {f"num_{name}": count for name, count in counts.items()}
    decided = [step for step in own if step["verdict"] != "withheld"]
    if not decided:
        return _withheld(own[0]["withheld"]) | counted
    most = max(decided, key=lambda step: step["value"])
    if counts["violated"]:
        most = max((step for step in own if step["verdict"] == "violated"), key=lambda step: step["value"])
    verdict = "violated" if counts["violated"] else "holds" if counts["holds"] == len(own) else "undecided"
    found = {
        "verdict": verdict,
        "value": most["value"],
        "lower": most["simultaneous_lower"],
        "upper": most["simultaneous_upper"],
    }
    return found | {"layer": most["layer"], "before": most["before"]} | counted


def _fall(rows: Sequence[Record], variable: str) -> Record:
    """Whether the last layer has less information than the highest of the layers after the input."""
    rows = [row for row in rows if row["layer"].split(".")[0] != "input"]
    if len(rows) < 2:
        return _withheld("fewer than two layers after the input")
    if missing := [row for row in rows if not row.get(f"{variable}_subsamples")]:
        return _withheld(_unusable(missing[0], variable))

    def above_null(row: Record) -> float:
        return row[f"{variable}_information"] - (row.get(f"{variable}_null") or 0.0)

    *earlier, last = rows
    highest = max(earlier, key=above_null)
    if reason := _unusable(highest, variable) or _unusable(last, variable):
        return _withheld(reason)
    if within_null(highest, variable) or above_null(highest) <= 0:
        return _withheld("it is within its null even where it is highest")
    value = above_null(last) - above_null(highest)
    halves = np.subtract(last[f"{variable}_subsamples"], highest[f"{variable}_subsamples"])
    margin = spread(halves, among=len(earlier))
    verdict = "holds" if value + margin < -_ROUNDING else "violated" if value - margin > _ROUNDING else "undecided"
    found = {"verdict": verdict, "value": value, "lower": value - margin, "upper": value + margin}
    null_known = all(row.get(f"{variable}_null") is not None for row in rows)
    return found | {"layer": last["layer"], "before": highest["layer"], "above_null": null_known}


def _with_trend(record: Record, rows: Sequence[Record]) -> Record:
    rows = [row for row in rows if row["layer"].split(".")[0] != "input"]
    if record["verdict"] == "withheld":
        return record
    value = _kendall([row["input_information"] for row in rows])
    halves = [_kendall(half) for half in zip(*(row["input_subsamples"] for row in rows), strict=True)]
    if not np.isfinite([value, *halves]).all():  # a constant has no trend
        return record
    margin = spread(halves)
    return record | {"trend": value, "trend_lower": max(-1.0, value - margin), "trend_upper": min(1.0, value + margin)}


def _kendall(values: Sequence[float]) -> float:
    """τ-b with the order in which the values come; NaN of a constant."""
    signs = np.sign(np.subtract.outer(values, values)[np.tril_indices(len(values), -1)])
    untied = np.count_nonzero(signs)
    return float(signs.sum() / np.sqrt(len(signs) * untied)) if untied else np.nan


def _sufficiency(rows: Sequence[Record]) -> Record:
    last = rows[-1]
    threshold = SUFFICIENT * last["label_ceiling"]
    reached = next((row["layer"] for row in rows if row["label_information"] >= threshold), None)
    common = {"layer": last["layer"], "threshold": threshold, "reached": reached}
    of_both = last.get("input_estimator") == last["label_estimator"]
    reason = _unusable(last, "label")
    if reason is None and within_null(last, "label"):
        reason = "it is within its null"
    if reason is None and of_both and last["input_information"] < threshold:
        reason = (
            f"by this estimator the layer tells only {_in_bits(last['input_information'])} apart in all, too little to reach it"
        )
    if reason is not None:
        return _withheld(reason) | common
    value, margin = last["label_information"], spread(last["label_subsamples"])
    lower, upper = value - margin, value + margin
    verdict = "holds" if lower >= threshold else "violated" if upper < threshold else "undecided"
    return {"verdict": verdict, "value": value, "lower": lower, "upper": upper} | common


def _unusable(record: Record, variable: str) -> str | None:
    """Why an estimate cannot be compared."""
    if not record.get(f"{variable}_subsamples"):
        return "it was measured without halves of the sample (num_subsamples), so it has no interval"
    if variable == "input" and record["input_saturated"]:
        return f"the input axis is saturated at {record['layer']}"
    ceiling = record.get(f"{variable}_ceiling")
    if ceiling is not None and record[f"{variable}_information"] > ceiling + _ROUNDING:
        return f"the estimate exceeds its ceiling at {record['layer']}"
    return None


def _withheld(reason: str | None) -> Record:
    return {
        "verdict": "withheld",
        "value": None,
        "lower": None,
        "upper": None,
        "layer": None,
        "before": None,
        "withheld": reason,
    }


_TITLES: dict[str, Callable[[str], str]] = {
    "data_processing": lambda variable: f"Data processing of {variable} information",
    "compression": lambda variable: "Compression of the input",
    "sufficiency": lambda variable: "Sufficiency for the label",
    "invariance": lambda variable: f"Invariance to {nuisance(variable)}",
}


def _sentence(record: Record) -> str:
    claim, variable, verdict = record["claim"], record["variable"], record["verdict"]
    who = REPRESENTATIONS.get(record["representation"], record["representation"])
    start = f"{_TITLES[claim](variable)}, {who} by {family(record['estimator'])}: {verdict}"
    if verdict == "withheld":
        return f"{start}, because {record['withheld']}."
    interval = f"{_in_bits(record['value'])} (95 % interval {_in_bits(record['lower'], record['upper'])})"
    if claim == "data_processing":
        text = f"the largest rise, from {record['before']} to {record['layer']}, is {interval}; of the steps "
        counts = {"holds": "hold", "violated": "are violated", "undecided": "are undecided", "withheld": "are withheld"}
        text += ", ".join(f"{record[f'num_{name}']} {words}" for name, words in counts.items() if record[f"num_{name}"])
        return f"{start}; {text}. {_caution(record)}"
    if claim == "sufficiency":
        reached = f"first reached at {record['reached']}" if record["reached"] else "reached by no layer"
        more = (
            " The layer may have more than this quantity shows." if verdict == "violated" else ""
        )  # noise and probes hide some
        return f"{start}; {record['layer']} has {interval} of the {_in_bits(record['threshold'])} asked for, {reached}.{more}"
    what = "information about the input" if claim == "compression" else f"information about {nuisance(variable)}"
    null = "" if claim == "compression" else " above its null" if record["above_null"] else " (its null was not measured)"
    text = f"from {record['before']}, the highest layer before, to {record['layer']} {what}{null} changes by {interval}"
    if record.get("trend") is not None:
        text += f"; Kendall's τ with depth {record['trend']:.2f} ({record['trend_lower']:.2f} to {record['trend_upper']:.2f})"
    return f"{start}; {text}."


def _caution(record: Record) -> str:
    if record["representation"] != "activation":
        return "A conductance is no function of the layer before, so the theorem does not ask for it."
    quantity = (
        "what a linear probe reads out" if record["estimator"].startswith("Probe") else "a quantity scaled to each layer anew"
    )
    return f"The theorem is about exact information; this is {quantity}, for which it need not hold."


def _in_bits(*nats: Any) -> str:
    return " to ".join(f"{value * BITS:.2f}" for value in nats) + " bits"
