"""The page's charts as plain data, in bits: what is drawn where, and what each point says. `charts.js` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipjax.files import Record
from ipjax.names import family, nuisance
from ipjax.report.run import Run
from ipjax.report.words import (
    bits,
    flags,
    in_bits,
    interval,
    interval_in_bits,
    joined,
    nuisances,
    of,
    plain,
    representations,
    title,
)

Chart = dict[str, Any]
RUN_COLOURS = 6


def planes(runs: Sequence[Run]) -> Chart:
    """The information planes, a panel a representation; of one run with its null and the other noise levels."""
    one = len(runs) == 1
    kinds = [key for key in representations(runs[0].plane) if all(key in representations(run.plane) for run in runs)]
    levels = _levels(runs[0]) if one else []
    panels = []
    for key in kinds:
        series = []
        for i, run in enumerate(runs):
            records = of(run.plane, key)
            points = [_plane_point(record, "" if one else run.name) for record in records]
            if levels:
                for point, record in zip(points, records, strict=True):
                    point["levels"] = _over_levels(run, record, levels)
            series.append({"name": run.name, "colour": key if one else f"run{i % RUN_COLOURS}", "points": points})
        panels.append({"title": title(key), "series": series})
    everything = [record for run in runs for key in kinds for record in of(run.plane, key)]
    return {
        "kind": "planes",
        "panels": panels,
        "x": {"label": "I(X; C), bits about the input"},
        "y": {"label": "I(C; Y), bits about the label"},
        "ceilings": {
            "x": {"value": in_bits(_most(everything, "input_ceiling")), "label": "log₂ n"},
            "y": {"value": in_bits(_most(everything, "label_ceiling")), "label": "H(Y)"},
        },
        "levels": levels,
        "own": levels.index(own) if (own := runs[0].noise) in levels and own is not None else 0,
    }


def _levels(run: Run) -> list[float]:
    """The noise levels of the profile and the run's own; none where the profile or the run's own is not known."""
    if not run.profile or run.noise is None:
        return []
    return sorted({record["noise"] for record in run.profile} | {run.noise})


def _over_levels(run: Run, record: Record, levels: Sequence[float]) -> list[list[Any] | None]:
    """[x, y, saturated] of a layer at each level, its own from the plane; `None` where the profile has none."""
    found = {run.noise: record}
    for other in run.profile:
        same = other["layer"] == record["layer"] and other["representation"] == record["representation"]
        if same and other["noise"] != run.noise:
            found[other["noise"]] = other
    values = [found.get(level) for level in levels]
    return [
        None
        if r is None
        else [in_bits(r["input_information"]), in_bits(r["label_information"]), bool(r.get("input_saturated"))]
        for r in values
    ]


def _plane_point(record: Record, run: str) -> Chart:
    point = {
        "layer": record["layer"],
        "x": in_bits(record["input_information"]),
        "y": in_bits(record["label_information"]),
        "xl": in_bits(record.get("input_interval_lower")),
        "xh": in_bits(record.get("input_interval_upper")),
        "yl": in_bits(record.get("label_interval_lower")),
        "yh": in_bits(record.get("label_interval_upper")),
        "null": in_bits(record.get("label_null")),
        "hollow": bool(record.get("input_saturated")),
    }
    lines = [
        joined(run and f"{run}:", record["layer"]),
        joined("about the label", bits(record["label_information"]), "bits", _interval(record, "label")),
        joined("about the input", bits(record["input_information"]), "bits", _interval(record, "input")),
    ]
    if record.get("label_null") is not None:
        lines.append(f"label, shuffled {bits(record['label_null'])} bits")
    if marks := flags(record):
        lines.append("marks: " + ", ".join(marks))
    return point | {"tip": lines}


def efficiency(runs: Sequence[Run], over_depth: bool = False) -> Chart | None:
    """ITE by layer, or over relative depth so that networks with other layers compare, with bands and withheld marks."""
    names = [] if over_depth else _layers(runs[0].plane)
    series, withheld = [], []
    for i, run in enumerate(runs):
        for key in representations(run.plane):
            if over_depth and key != "contrast":
                continue
            records = of(run.plane, key)
            points = []
            for j, record in enumerate(records):
                at = j / max(len(records) - 1, 1) if over_depth else names.index(record["layer"])
                who = joined(run.name + ":" if over_depth else "", record["layer"], f"· {title(key)}")
                if record.get("ite") is None:
                    reason = record.get("ite_withheld") or "not measured"
                    withheld.append({"x": at, "v": 0, "tip": [who, f"ITE withheld: {reason}"]})
                    continue
                text = joined("ITE", plain(record["ite"]), interval(record.get("ite_lower"), record.get("ite_upper")))
                value = {"x": at, "v": record["ite"], "l": record.get("ite_lower"), "h": record.get("ite_upper")}
                null = record.get("label_null")
                shuffled = None if null is None else null / record["input_information"]
                tip = [who, text] + ([] if shuffled is None else [f"with shuffled labels {plain(shuffled)}"])
                points.append(value | {"n": shuffled, "tip": tip})
            if points:
                series.append(
                    {
                        "name": run.name if over_depth else title(key),
                        "colour": f"run{i % RUN_COLOURS}" if over_depth else key,
                        "points": points,
                    }
                )
    if not series and not withheld:
        return None
    if withheld:
        series.append({"name": "withheld", "colour": "quiet", "style": "crosses", "points": withheld})
    x = {"label": "relative depth", "range": [0, 1]} if over_depth else {"ticks": names}
    return {"kind": "lines", "x": x, "y": {"label": "ITE"}, "series": series}


def label_over_depth(runs: Sequence[Run], representation: str) -> Chart:
    """Label information over relative depth, a line a run."""
    series = []
    for i, run in enumerate(runs):
        records = of(run.plane, representation)
        points = [
            _bits_point(j / max(len(records) - 1, 1), record, "label", f"{run.name}: {record['layer']}")
            for j, record in enumerate(records)
        ]
        series.append({"name": run.name, "colour": f"run{i % RUN_COLOURS}", "points": points})
    x = {"label": "relative depth", "range": [0, 1]}
    return {"kind": "lines", "title": title(representation), "x": x, "y": {"label": "I(C; Y), bits"}, "series": series}


def kept(plane: Sequence[Record]) -> list[Chart]:
    """What the layers keep of the label and of each nuisance above its null, a chart a representation."""
    variables = nuisances(plane)
    if not variables:
        return []
    names, charts = _layers(plane), []
    colours = dict(zip(["label", *variables], ("contrast", "predicted", "green", "pink", "amber"), strict=False))
    for key in representations(plane):
        series = []
        for variable, colour in colours.items():
            records = [record for record in of(plane, key) if record.get(f"{variable}_information") is not None]
            points = []
            for record in records:
                null = record.get(f"{variable}_null") or 0
                points.append(
                    _bits_point(
                        names.index(record["layer"]), record, variable, f"{record['layer']} · {nuisance(variable)}", null
                    )
                )
            series.append({"name": nuisance(variable), "colour": colour, "points": points})
        y = {"label": "bits above the null"}
        charts.append({"kind": "lines", "title": title(key), "x": {"ticks": names}, "y": y, "series": series})
    return charts


def leakage(plane: Sequence[Record]) -> list[Chart]:
    """What the predicted class adds by layer, bars with intervals, a chart an estimator; ticks for a class at random."""
    charts, names = [], _layers(plane)
    for method in dict.fromkeys(r["label_estimator"] for r in plane if r.get("leak") is not None):
        points = []
        for record in plane:
            if record.get("leak") is None or record["label_estimator"] != method or record["layer"] not in names:
                continue
            ends = (record.get("leak_lower"), record.get("leak_upper"))
            tip = [record["layer"], joined("leak", bits(record["leak"]), "bits", interval_in_bits(*ends))]
            if record.get("leak_null") is not None:
                tip.append(f"a class at random {bits(record['leak_null'])} bits")
            values = {"v": record["leak"], "l": ends[0], "h": ends[1], "n": record.get("leak_null")}
            points.append({"x": names.index(record["layer"]), **{k: in_bits(v) for k, v in values.items()}, "tip": tip})
        series = [
            {
                "name": "to the predicted class",
                "colour": "predicted",
                "style": "bars",
                "null": "to a random class",
                "points": points,
            }
        ]
        y = {"label": "leak, bits"}
        charts.append({"kind": "lines", "title": f"by {family(method)}", "x": {"ticks": names}, "y": y, "series": series})
    return charts


def leak_over_depth(runs: Sequence[Run]) -> Chart | None:
    """The leak by the estimator of both axes over relative depth, a line a run that measured it."""
    series = []
    for i, run in enumerate(runs):
        records = [record for record in of(run.plane, "predicted") if record.get("leak") is not None]
        points = []
        for j, record in enumerate(records):
            ends = (record.get("leak_lower"), record.get("leak_upper"))
            tip = [f"{run.name}: {record['layer']}", joined("leak", bits(record["leak"]), "bits", interval_in_bits(*ends))]
            values = {"v": record["leak"], "l": ends[0], "h": ends[1], "n": record.get("leak_null")}
            points.append({"x": j / max(len(records) - 1, 1), **{k: in_bits(v) for k, v in values.items()}, "tip": tip})
        if points:
            series.append({"name": run.name, "colour": f"run{i % RUN_COLOURS}", "points": points})
    x = {"label": "relative depth", "range": [0, 1]}
    return {"kind": "lines", "x": x, "y": {"label": "leak, bits"}, "series": series} if series else None


def _bits_point(x: float, record: Record, variable: str, who: str, null: float = 0) -> Chart:
    def above(key: str) -> float | None:
        value = record.get(f"{variable}_{key}")
        return None if value is None else in_bits(value - null)

    value = {"x": x, "v": above("information"), "l": above("interval_lower"), "h": above("interval_upper")}
    tip = [who, joined(bits(record[f"{variable}_information"]), "bits", _interval(record, variable))]
    return value | {"tip": tip + ([f"less the null, {bits(null)}: {plain(value['v'])} bits"] if null else [])}


def _interval(record: Record, variable: str) -> str:
    return interval_in_bits(record.get(f"{variable}_interval_lower"), record.get(f"{variable}_interval_upper"))


def _layers(plane: Sequence[Record]) -> list[str]:
    found: dict[str, int] = {}
    for key in representations(plane):
        for record in of(plane, key):
            found.setdefault(record["layer"], record["depth"])
    return sorted(found, key=lambda layer: found[layer])


def _most(records: Sequence[Record], key: str) -> float | None:
    return max((record[key] for record in records if record.get(key) is not None), default=None)
