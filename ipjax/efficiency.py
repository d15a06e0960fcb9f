"""Information Transformation Efficiency (ITE): how much of what a layer keeps is about the label.

The name is of Dabounou and Baazzouz 2024 (arXiv:2408.14681), whose abstract gives no formula; the two definitions here are this
project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ipjax.assessment import spread, within_null
from ipjax.files import Record
from ipjax.information_plane import InformationPlane


@dataclass(frozen=True)
class Efficiency:
    """An ITE with its 95 % interval from subsamples (`None` where they give none), or why it is withheld.

    Exactly one of `value` and `withheld` is `None`.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    withheld: str | None = None


def information_transformation_efficiency(
    plane: InformationPlane, definition: Literal["ratio", "increment"] = "ratio"
) -> dict[str, Efficiency]:
    """ITE of every layer of a plane with one record a layer.

    **Definitions** (dimensionless):

    - `"ratio"`: I(C_l; Y) / I(X; C_l), at most 1 for the KDE estimate, and below 0 only where that of the label is. The
        numerator includes what shuffled labels would give: compare it with `label_null` / `input_information`.
    - `"increment"`: [I(C_l; Y) - I(C_{l-1}; Y)] / [I(X; C_{l-1}) - I(X; C_l)], the label information gained per input
        information dropped, l-1 being the record before; negative where both axes move the same way.

    Withheld, with the reason, where the input axis is saturated, where the label information is not above the largest of
    its null (if measured), and for `"increment"` where there is no layer before or the input information does not change by
    more than its interval. A label axis at its ceiling, the labels' entropy, does not withhold: that a layer holds all of the
    label is a finding.

    **Raises:** `ValueError` where a layer has several records (use `plane.select`) or the axes come from different estimators.
    """
    if definition not in ("ratio", "increment"):
        raise ValueError(f'definition: expected "ratio" or "increment", got {definition!r}')
    names = [record["layer"] for record in plane.records]
    if len(set(names)) < len(names):
        raise ValueError(
            "plane: expected one record a layer; choose with plane.select(representation=..., label_estimator=...)"
        )
    for record in plane.records:
        if record.get("input_estimator") is None or record.get("input_estimator") != record.get("label_estimator"):
            raise ValueError(
                f"plane: expected both axes from one estimator, got {record.get('input_estimator')} "
                f"and {record.get('label_estimator')}"
            )
    if definition == "ratio":
        return {record["layer"]: _ratio(record) for record in plane.records}
    previous = (None, *plane.records)
    return {record["layer"]: _increment(before, record) for before, record in zip(previous, plane.records, strict=False)}


def _ratio(record: Record) -> Efficiency:
    reason = _unusable(record)
    if reason is None and record["input_information"] <= 0:
        reason = "no information about the input"
    if reason is not None:
        return Efficiency(None, withheld=reason)
    value = record["label_information"] / record["input_information"]
    if not record.get("label_subsamples"):
        return Efficiency(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        halves = np.array(record["label_subsamples"]) / np.array(record["input_subsamples"])
    return _with_interval(value, halves)


def _increment(before: Record | None, record: Record) -> Efficiency:
    if before is None:
        return Efficiency(None, withheld="no layer before")
    reason = _unusable(record) or _unusable(before)
    if reason is not None:
        return Efficiency(None, withheld=reason)
    gained = record["label_information"] - before["label_information"]
    dropped = before["input_information"] - record["input_information"]
    if not record.get("label_subsamples"):
        return Efficiency(gained / dropped) if dropped else Efficiency(None, withheld="input information does not change")
    halves_gained = np.subtract(record["label_subsamples"], before["label_subsamples"])
    halves_dropped = np.subtract(before["input_subsamples"], record["input_subsamples"])
    if abs(dropped) <= spread(halves_dropped):
        return Efficiency(None, withheld="input information does not change beyond its interval")
    with np.errstate(divide="ignore", invalid="ignore"):  # a half in which nothing is dropped
        return _with_interval(gained / dropped, halves_gained / halves_dropped)


def _with_interval(value: float, halves: np.ndarray) -> Efficiency:
    if not np.isfinite(halves).all():  # a half without any information
        return Efficiency(value)
    margin = spread(halves)
    return Efficiency(value, value - margin, value + margin)


def _unusable(record: Record) -> str | None:
    if record["input_saturated"]:
        return "input information saturated"
    if within_null(record):
        return "label information within its null"
    return None
