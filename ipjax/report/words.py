"""How the page writes: sentences, nats as bits, intervals, representations, estimators, flags in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ipjax.assessment import spread, within_null
from ipjax.files import Record
from ipjax.names import BITS, TITLES

NAMES = {
    "activation": "the activations",
    "contrast": "the conductance to a fixed contrast",
    "predicted": "the conductance to the predicted class",
}
FLAGS = {
    "saturated": "Input information is within 5 % of its ceiling: it tells the number of images, not the layer. More images or "
    "more noise cure that.",
    "all label": "Label information is within 5 % of its ceiling, the labels' entropy: the layer holds all of the label, or, "
    "if the null is near it too, there are too few images.",
    "within null": "Label information is not above what shuffled labels give: nothing is shown to be there.",
    "sample size": "The estimate would move by more than its interval with more images: compare it with other layers, not with "
    "other numbers of images.",
    "few images": "A class has fewer than 20 images, too few for estimates a class.",
    "ITE withheld": "ITE is not given, because one of its parts means nothing here.",
}
SECTIONS = {
    "planes": "Planes",
    "kept": "Kept, dropped",
    "ite": "ITE",
    "layers": "Layers",
    "label": "Label",
    "leak": "Leak",
    "ablation": "Ablation",
    "rankings": "Rankings",
    "theory": "Theory",
    "settings": "Settings",
}


@dataclass(frozen=True)
class Sentence:
    """A finding, a caution or something not known; with what it rests on, and the section that shows it."""

    text: str
    evidence: str = ""
    kind: Literal["found", "caution", "unknown"] = "found"
    section: str = "planes"


def representations(records: Sequence[Record]) -> list[str]:
    """Those with both axes, in the order of the figures."""
    found = dict.fromkeys(r["representation"] for r in records if r.get("input_information") is not None)
    return [name for name in (*TITLES, *(name for name in found if name not in TITLES)) if name in found]


def of(records: Sequence[Record], representation: str) -> list[Record]:
    """The records of a representation that have both axes, in forward order."""
    chosen = (r for r in records if r["representation"] == representation and r.get("input_information") is not None)
    return sorted(chosen, key=lambda record: record["depth"])


def title(representation: str) -> str:
    """A representation as a heading calls it."""
    return TITLES.get(representation, representation)


def name(representation: str) -> str:
    """A representation inside a sentence."""
    return NAMES.get(representation, representation)


def nuisances(records: Sequence[Record]) -> list[str]:
    """The variables beside input and label that any of the records measured."""
    keys = dict.fromkeys(key for record in records for key in record if key.endswith("_information"))
    found = (key.removesuffix("_information") for key in keys)
    return [v for v in found if v not in ("input", "label") and any(r.get(f"{v}_information") is not None for r in records)]


def in_bits(nats: float | None) -> float | None:
    """Nats as bits, for a chart's data."""
    return None if nats is None else round(nats * BITS, 5)


def bits(nats: float | None, digits: int = 2) -> str:
    """Nats as bits, as text; a dash where there is no value."""
    return plain(None if nats is None else nats * BITS, digits)


def plain(value: float | None, digits: int = 2) -> str:
    """With a true minus; a dash where there is no value. A rounded zero has no sign."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def interval(lower: float | None, upper: float | None, digits: int = 2) -> str:
    """Both ends in brackets; nothing where one is not known."""
    return "" if lower is None or upper is None else f"[{plain(lower, digits)},\u00a0{plain(upper, digits)}]"


def interval_in_bits(lower: float | None, upper: float | None, digits: int = 2) -> str:
    """`interval` of ends in nats."""
    return "" if lower is None or upper is None else interval(lower * BITS, upper * BITS, digits)


def joined(*parts: str) -> str:
    """The parts that are not empty, with spaces between."""
    return " ".join(part for part in parts if part)


def listed(items: Sequence[str], most: int = 4) -> str:
    """a, b and c; with many, how many more there are."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1] if items else "")))


def capitalised(text: str) -> str:
    """With a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def counted(count: int, noun: str) -> str:
    """A number and its noun, with a plural s for all but one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def change(before: Record, after: Record, variable: str, null: bool = False) -> tuple[float, float | None, float | None]:
    """How much a variable's information differs between two layers, with the 95 % interval from the halves that both share.

    With `null`, of the information above the null; the null's own spread is left out.
    """
    value = after[f"{variable}_information"] - before[f"{variable}_information"]
    shift = (after.get(f"{variable}_null") or 0) - (before.get(f"{variable}_null") or 0) if null else 0
    halves = [record.get(f"{variable}_subsamples") or () for record in (before, after)]
    if not halves[0] or len(halves[0]) != len(halves[1]):
        return value - shift, None, None
    margin = spread(np.subtract(halves[1], halves[0]))
    return value - shift, value - shift - margin, value - shift + margin


def flags(record: Record) -> list[str]:
    """What to know about a layer's numbers, as keys of `FLAGS`."""
    warnings = " ".join(str(record.get(f"{variable}_warnings") or "") for variable in ("input", "label"))
    found = {
        "saturated": bool(record.get("input_saturated")),
        "all label": bool(record.get("label_saturated")),
        "within null": within_null(record),
        "sample size": "sample's size" in warnings,
        "few images": "fewer than" in warnings,
        "ITE withheld": record.get("ite_withheld") is not None,
    }
    return [flag for flag, there in found.items() if there]


def told_apart(one: Any, other: Any) -> bool:
    """Whether two (value, lower, upper) have intervals that do not overlap; `False` where one has none."""
    if None in (*one, *other):
        return False
    return one[2] < other[1] or other[2] < one[1]
