"""What several runs have in common and where they differ: sentences, settings, a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ipjax.report.run import Run
from ipjax.report.tables import Cell, Table, settings
from ipjax.report.words import (
    Sentence,
    capitalised,
    interval,
    joined,
    listed,
    of,
    plain,
    representations,
    title,
    told_apart,
)

_Value = tuple[float, float | None, float | None]  # a value and its interval
DECISIVE = {
    "noise": "the noise level decides how many bits there are",
    "readout": "another readout gives the estimators other features",
    "num_samples": "estimates depend on the number of images",
    "data": "other images carry other information",
    "clutter": "other images carry other information",
    "resize": "images of another scale carry other information",
    "crop": "images of another size carry other information",
    "layers": "what is last or largest is so among the layers that were measured",
    "label_estimator": "another estimator estimates another quantity",
}
_OF_IMAGES = {"data", "clutter", "resize", "crop"}
_MATTER = {"ablation": _OF_IMAGES | {"layers"}, "settings": _OF_IMAGES}  # which of these a section depends on, else all


def common(runs: Sequence[Run]) -> list[str]:
    """The representations that all runs measured.

    **Raises:** `ValueError` for fewer than two runs, for equal ones, and for runs with nothing in common.
    """
    if len(runs) < 2:
        raise ValueError(f"runs: expected at least two to compare, got {len(runs)}")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"runs: expected runs of different names, got {', '.join(names)}")
    shared = [key for key in representations(runs[0].plane) if all(key in representations(run.plane) for run in runs)]
    if not shared:
        has = "; ".join(f"{run.name} has {listed(representations(run.plane)) or 'none with both axes'}" for run in runs)
        raise ValueError(f"runs: expected a representation that all of them measured, but {has}: there is nothing to compare")
    return shared


def sentences(runs: Sequence[Run]) -> list[Sentence]:
    """Warnings first; then for each quantity whether the runs differ beyond their intervals."""
    found, differ = warnings(runs), _different(runs)
    for key in common(runs):
        values = {run.name: _label(run, key, -1) for run in runs}
        found.append(_differ(f"label information at the last layer ({title(key)})", values, "bits", "planes", not differ))
    for what, section, unit, values in (
        ("largest ITE (contrast)", "ite", "", {run.name: _best(run, "ite", "contrast") for run in runs}),
        ("largest leak of the target", "leak", "bits", {run.name: _best(run, "leak", "predicted", True) for run in runs}),
        ("largest loss by a single block", "ablation", "bits", {run.name: _loss(run) for run in runs}),
        ("accuracy", "settings", "", {run.name: accuracy(run) for run in runs}),
    ):
        found.append(_differ(what, values, unit, section, not _MATTER.get(section, set(DECISIVE)) & set(differ)))
    return found


def warnings(runs: Sequence[Run]) -> list[Sentence]:
    """Settings that differ and without which values do not compare."""
    found = []
    for key, values in _different(runs).items():
        what = "the number of images" if key == "num_samples" else key.replace("_", " ")
        text = f"The runs differ in {what}: {DECISIVE[key]}, so values do not compare."
        found.append(Sentence(text, "; ".join(f"{name}: {value}" for name, value in values.items()), "caution", "settings"))
    return found


def _different(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Decisive setting -> run -> its value, of the settings that are not the same in all runs."""
    every = {key: {run.name: _setting(run, key) for run in runs} for key in DECISIVE}
    return {key: values for key, values in every.items() if len(set(values.values())) > 1}


def _setting(run: Run, key: str) -> str:
    if key in run.plane[0]:
        estimators = dict.fromkeys(str(r[key]) for r in run.plane if r.get("input_information") is not None)
        return ", ".join(estimators)
    value = run.config.get(key)
    return "default" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _differ(what: str, values: Mapping[str, _Value | None], unit: str, section: str, alike: bool) -> Sentence:
    known = {name: value for name, value in values.items() if value is not None}
    shown = "; ".join(
        joined(name, plain(v[0], 3 if what == "accuracy" else 2), unit, interval(*v[1:], 3 if what == "accuracy" else 2))
        for name, v in known.items()
    )
    if len(known) < 2:
        return Sentence(f"{capitalised(what)} was measured in fewer than two of the runs.", shown, "unknown", section)
    most, least = (pick(known, key=lambda name: known[name][0]) for pick in (max, min))
    if told_apart(known[most], known[least]):
        text = f"{capitalised(what)} is highest in {most} and lowest in {least}, beyond the intervals"
        text += "." if alike else ", which what does not compare in their settings may explain."
        return Sentence(text, shown, "found", section)
    return Sentence(f"{capitalised(what)} is not shown to differ between the runs.", shown, "unknown", section)


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with each run's value."""
    columns = [
        dict(settings(run.config, {"images": run.num_images, "devices": run.environment.get("devices")})) for run in runs
    ]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [(key, [column.get(key, "–") for column in columns]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def overview(runs: Sequence[Run]) -> Table:
    """A row a run and representation."""
    rows = []
    for run in runs:
        for key in common(runs):
            leak = _best(run, "leak", "predicted", True) if key == "predicted" else None
            rows.append(
                (
                    Cell(run.name),
                    Cell(title(key)),
                    _cell(_label(run, key, 0)),
                    _cell(_label(run, key, -1)),
                    _cell(_best(run, "ite", key)),
                    _cell(leak),
                    _cell(_loss(run)),
                    _cell(accuracy(run), 3),
                )
            )
    columns = (
        ("run", ""),
        ("representation", ""),
        ("label, first", "bits at the first layer after the input"),
        ("label, last", "bits at the last layer"),
        ("largest ITE", ""),
        ("largest leak", "bits"),
        ("largest block loss", "rise of cross-entropy, bits"),
        ("accuracy", "with the 95 % interval of Wilson"),
    )
    return Table("runs", columns, tuple(rows))


def accuracy(run: Run) -> tuple[float, float, float] | None:
    """With Wilson's 95 % interval for a share of n images."""
    share, n = run.environment.get("accuracy"), run.num_images
    if share is None or not n:
        return None
    z = 1.96
    middle, scale = (share + z * z / (2 * n)), 1 + z * z / n
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, (middle - margin) / scale, (middle + margin) / scale


def _label(run: Run, representation: str, at: int) -> _Value:
    records = of(run.plane, representation)
    record = ([r for r in records if r["layer"] != "input"] or records)[at]
    return _in_bits(record["label_information"], record.get("label_interval_lower"), record.get("label_interval_upper"))


def _best(run: Run, key: str, representation: str, in_bits: bool = False) -> _Value | None:
    records = [r for r in of(run.plane, representation) if r.get(key) is not None]
    if not records:
        return None
    best = max(records, key=lambda record: record[key])
    values = (best[key], best.get(f"{key}_lower"), best.get(f"{key}_upper"))
    return _in_bits(*values) if in_bits else values


def _loss(run: Run) -> _Value | None:
    records = [record for record in run.ablation if record["kind"] == "block"]
    if not records:
        return None
    most = max(records, key=lambda record: record["loss"])
    return _in_bits(most["loss"], most.get("loss_lower"), most.get("loss_upper"))


def _in_bits(value: float, lower: float | None, upper: float | None) -> _Value:
    scale = 1 / math.log(2)
    return value * scale, None if lower is None else lower * scale, None if upper is None else upper * scale


def _cell(value: _Value | None, digits: int = 2) -> Cell:
    return Cell("–") if value is None else Cell(plain(value[0], digits), value[0], interval(*value[1:], digits))
