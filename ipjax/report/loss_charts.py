"""What the network loses and what predicts it, as charts: see `charts` for their form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ipjax.files import Record
from ipjax.report.charts import RUN_COLOURS, Chart
from ipjax.report.losses import score
from ipjax.report.run import Run
from ipjax.report.words import bits, counted, in_bits, interval, interval_in_bits, joined, plain

RANKINGS = {
    "conductance": "predicted",
    "activation": "activation",
    "gradient_x_activation": "green",
    "information": "contrast",
    "random": "quiet",
}


def blocks(ablation: Sequence[Record]) -> Chart | None:
    """What cross-entropy rises by without each block, with its interval."""
    records = sorted((r for r in ablation if r["kind"] == "block"), key=lambda r: r["depth"])
    if not records:
        return None
    points = [{"x": i, **_loss(record), "tip": _loss_tip(record, record["layer"])} for i, record in enumerate(records)]
    series = [{"name": "a block replaced by its mean", "colour": "contrast", "style": "bars", "points": points}]
    y = {"label": "rise of cross-entropy, bits"}
    return {"kind": "lines", "x": {"ticks": [r["layer"] for r in records]}, "y": y, "series": series}


def block_losses(runs: Sequence[Run]) -> Chart | None:
    """The same over relative depth, a line a run that measured it."""
    series = []
    for i, run in enumerate(runs):
        chart = blocks(run.ablation)
        if chart is not None:
            points = chart["series"][0]["points"]
            last = max(len(points) - 1, 1)
            points = [p | {"x": p["x"] / last, "tip": [f"{run.name}: {p['tip'][0]}", *p["tip"][1:]]} for p in points]
            series.append({"name": run.name, "colour": f"run{i % RUN_COLOURS}", "points": points})
    x = {"label": "relative depth", "range": [0, 1]}
    return {"kind": "lines", "x": x, "y": {"label": "rise of cross-entropy, bits"}, "series": series} if series else None


def channel_curves(ablation: Sequence[Record]) -> Chart | None:
    """Deletion and insertion curves, a choice a layer: cross-entropy over the share of channels, a line a ranking."""
    records = [record for record in ablation if record["kind"] == "channels"]
    ranked = {record["layer"] for record in records if record["ranking"] != "random"}  # the others have one share alone
    records = [record for record in records if record["layer"] in ranked]
    titles = {"deletion": "Deletion: the first channels removed", "insertion": "Insertion: the first channels kept"}
    options = []
    for layer in dict.fromkeys(r["layer"] for r in sorted(records, key=lambda r: r["depth"])):
        charts = []
        for curve, verb in (("deletion", "removed"), ("insertion", "kept")):
            chosen = [r for r in records if r["layer"] == layer and r["curve"] == curve]
            series = [
                _curve([r for r in chosen if r["ranking"] == ranking], ranking, verb)
                for ranking in RANKINGS
                if any(r["ranking"] == ranking for r in chosen)
            ]
            if series:
                x = {"label": f"share of channels {verb}", "range": [0, 1]}
                y = {"label": "rise of cross-entropy, bits"}
                charts.append(
                    {
                        "kind": "lines",
                        "title": titles[curve],
                        "x": x,
                        "y": y,
                        "series": series,
                    }
                )
        if charts:
            options.append({"name": layer, "charts": charts})
    return {"kind": "choice", "label": "Layer", "options": options} if options else None


def _curve(records: Sequence[Record], ranking: str, verb: str) -> Chart:
    """A line over the share; of several random repeats the mean with their extremes."""
    name, points = ranking.replace("_", " "), []
    for share in sorted({record["share"] for record in records}):
        there = [record for record in records if record["share"] == share]
        if len(there) > 1:
            losses = [record["loss"] for record in there]
            ends = {"v": float(np.mean(losses)), "l": min(losses), "h": max(losses)}
            values = {key: in_bits(value) for key, value in ends.items()}
            tip = [
                f"{name}, {len(there)} orders",
                f"{100 * share:.0f} % {verb}",
                f"loss {bits(ends['v'])} bits, {bits(ends['l'])} to {bits(ends['h'])}",
            ]
        else:
            values = _loss(there[0])
            tip = [
                name,
                f"{100 * share:.0f} % {verb} ({counted(there[0]['num_channels'], 'channel')})",
                *_loss_tip(there[0], "")[1:],
            ]
        points.append({"x": share, **values, "tip": tip})
    whole = {"deletion": 0.0, "insertion": 1.0}[records[0]["curve"]]
    if all(point["x"] != whole for point in points):
        points.append({"x": whole, "v": 0.0, "tip": [name, "the intact network"]})
    points.sort(key=lambda point: point["x"])
    return {"name": name, "colour": RANKINGS[ranking], "style": "quiet" if ranking == "random" else "line", "points": points}


def rankings(records: Sequence[Record]) -> list[Chart]:
    """How well each score predicts the loss, a forest a kind of loss: all of it, and beyond depth; trivial scores in grey."""
    charts = []
    titles = {"block": "Predicting the loss of a block", "channels": "Predicting the loss of half of a layer's channels"}
    for loss in dict.fromkeys(record["loss"] for record in records):
        rows = []
        for record in sorted((r for r in records if r["loss"] == loss), key=lambda r: (r["trivial"], -(r["correlation"] or 0))):
            cells = []
            for key in ("correlation", "partial"):
                ends = (record.get(key), record.get(f"{key}_lower"), record.get(f"{key}_upper"))
                what = "rank correlation" if key == "correlation" else "beyond depth"
                tip = [score(record), joined(what, plain(ends[0]), interval(*ends[1:]))]
                cells.append(None if ends[0] is None else {"v": ends[0], "l": ends[1], "h": ends[2], "tip": tip})
            rows.append(
                {
                    "name": score(record),
                    "trivial": bool(record["trivial"]),
                    "colour": record.get("representation"),
                    "cells": cells,
                }
            )
        columns = ["Spearman correlation with the loss", "partial correlation, beyond depth"]
        charts.append({"kind": "forest", "title": titles.get(loss, loss), "columns": columns, "rows": rows})
    return charts


def _loss(record: Record) -> Chart:
    return {key: in_bits(record.get(name)) for key, name in (("v", "loss"), ("l", "loss_lower"), ("h", "loss_upper"))}


def _loss_tip(record: Record, who: str) -> list[str]:
    lines = [
        who,
        joined(
            "cross-entropy",
            signed(record["loss"]),
            "bits",
            interval_in_bits(record.get("loss_lower"), record.get("loss_upper")),
        ),
    ]
    if record.get("accuracy") is not None:
        lines.append(f"accuracy {record['accuracy']:.1%}, intact {record['intact_accuracy']:.1%}")
    return lines


def signed(nats: float) -> str:
    """Nats as bits, with a plus before what is above zero."""
    return ("+" if nats > 0 else "") + bits(nats)
