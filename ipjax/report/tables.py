"""The page's tables, from records: cells as they read, and as they sort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipjax.bottleneck import disagreements
from ipjax.channels import concentration
from ipjax.files import Record
from ipjax.information_plane import InformationPlane
from ipjax.names import BITS, family, nuisance
from ipjax.report.charts import Chart
from ipjax.report.loss_charts import signed
from ipjax.report.losses import CLAIMS
from ipjax.report.words import (
    FLAGS,
    bits,
    flags,
    interval,
    interval_in_bits,
    of,
    plain,
    representations,
    title,
)

VERDICTS = {"holds": "✓", "violated": "✗", "undecided": "?", "withheld": "–"}
_TOP = 3  # channels of a layer that the page lists


@dataclass(frozen=True)
class Cell:
    """What a cell reads, what it sorts by (`None`: its text), a fainter note after it, and marks with their explanation."""

    text: str
    sort: float | None = None
    note: str = ""
    marks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """Columns (heading, explanation), rows of cells; and a group a row that a selector may show alone."""

    name: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[str, ...] = ()


def layers(plane: Sequence[Record], ablation: Sequence[Record] = (), second: Sequence[Record] = ()) -> Table:
    """A row a representation and layer: both axes, the null, other estimators of the label, ITE, leak, loss, marks.

    Columns in which no row has a value are left out.
    """
    others: dict[str, dict[tuple[str, str], Record]] = {}
    for record in (*(r for r in plane if r.get("input_information") is None), *second):
        if record.get("label_information") is not None:
            others.setdefault(family(record["label_estimator"]), {})[record["representation"], record["layer"]] = record
    losses = {r["layer"]: r for r in ablation if r["kind"] == "block"}
    columns = {
        "layer": ("layer", "in forward order"),
        "representation": ("representation", "what stands for the layer"),
        "input": ("I(X; C)", "bits about the input, with the 95 % interval"),
        "label": ("I(C; Y)", "bits about the label, with the 95 % interval"),
        "null": ("null", "what shuffled labels give, in bits: mean"),
        **{name: (f"by {name}", f"I(C; Y) by another estimator, {name}, in bits") for name in others},
        "ite": ("ITE", "label information over input information, with the 95 % interval"),
        "leak": ("leak", "bits of label that the choice of the predicted class adds"),
        "loss": ("loss", "rise of cross-entropy without the block, in bits"),
        "gap": ("gap", "completeness gap: quadrature error of the conductance"),
        "marks": ("marks", "explained below"),
    }
    rows, groups = [], []
    for key in representations(plane):
        for record in of(plane, key):
            loss = losses.get(record["layer"])
            gap = record.get("completeness_gap")
            rows.append(
                {
                    "layer": Cell(record["layer"], record["depth"]),
                    "representation": Cell(title(key), len(set(groups) - {key})),
                    "input": _of_information(record, "input"),
                    "label": _of_information(record, "label"),
                    "null": _bits(record.get("label_null")),
                    **{
                        name: _bits(found.get((key, record["layer"]), {}).get("label_information"))
                        for name, found in others.items()
                    },
                    "ite": _value(record.get("ite"), interval(record.get("ite_lower"), record.get("ite_upper"))),
                    "leak": _bits(record.get("leak"), interval_in_bits(record.get("leak_lower"), record.get("leak_upper"))),
                    "loss": _loss(loss) if loss else Cell("–"),
                    "gap": Cell("–") if gap is None else Cell(f"{100 * gap:.1f} %", gap),
                    "marks": _marks(record),
                }
            )
            groups.append(title(key))
    kept = [key for key in columns if any(row[key].text != "–" for row in rows)]
    return Table(
        "layers", tuple(columns[key] for key in kept), tuple(tuple(row[key] for key in kept) for row in rows), tuple(groups)
    )


def channels(records: Sequence[Record]) -> Table:
    """A row a representation and layer: its best channels, and how many carry its label information."""
    rows, groups = [], []
    for key in _kinds(records):
        chosen = [record for record in records if record["representation"] == key]
        shares = (
            concentration(InformationPlane(tuple(chosen))) if all(r.get("label_null_upper") is not None for r in chosen) else {}
        )
        for layer in dict.fromkeys(r["layer"] for r in sorted(chosen, key=lambda r: r["depth"])):
            of_layer = sorted((r for r in chosen if r["layer"] == layer), key=lambda r: r["rank"])
            best, share = of_layer[0], shares.get(layer)
            others = ", ".join(f"{r['channel']} ({bits(r['label_information'])})" for r in of_layer[1:_TOP])
            rows.append(
                (
                    Cell(layer, best["depth"]),
                    Cell(title(key), len(set(groups) - {title(key)})),
                    Cell(str(best["channel"]), best["channel"]),
                    _bits(best["label_information"]),
                    _bits(best.get("label_null_upper")),
                    Cell(others or "–"),
                    _share(share and share.num_informative, best["num_channels"]),
                    _share(share and share.num_holding_half, best["num_channels"]),
                )
            )
            groups.append(title(key))
    columns = (
        ("layer", "in forward order"),
        ("representation", "what stands for the layer"),
        ("best channel", "the one that alone tells most of the label"),
        ("bits", "what it alone tells of the label"),
        ("null", "the largest value that shuffled labels give any of the layer's channels"),
        ("next best", "channel (bits)"),
        ("above null", "channels that tell more than shuffled labels"),
        ("hold half", "fewest channels that hold half of what these tell"),
    )
    return Table("channels", columns, tuple(rows), tuple(groups))


def areas(records: Sequence[Record]) -> Table:
    """A row a layer, curve and ranking: the areas under the curves."""
    rows = []
    for record in sorted(records, key=lambda r: (r["depth"], r["curve"], r["ranking"])):
        accuracy = interval(record.get("accuracy_area_lower"), record.get("accuracy_area_upper"))
        loss = interval_in_bits(record.get("cross_entropy_area_lower"), record.get("cross_entropy_area_upper"))
        rows.append(
            (
                Cell(record["layer"], record["depth"]),
                Cell(record["curve"]),
                Cell(record["ranking"].replace("_", " ")),
                _value(record.get("accuracy_area"), accuracy),
                _bits(record.get("cross_entropy_area"), loss),
            )
        )
    columns = (
        ("layer", "in forward order"),
        ("curve", "deletion: the first channels removed; insertion: all but the first removed"),
        ("ranking", "what orders the channels"),
        (
            "area, accuracy",
            "under the curve of accuracy over the share of channels; low is better for deletion, high for insertion",
        ),
        ("area, cross-entropy", "the same of cross-entropy, in bits"),
    )
    return Table("areas", columns, tuple(rows))


@dataclass(frozen=True)
class Verdicts:
    """A claim, explained where it comes first, about a variable; for each representation the estimators' verdicts."""

    claim: str
    explanation: str
    variable: str
    cells: tuple[tuple[tuple[str, str, str, str], ...], ...]  # of estimator, symbol, verdict, sentence
    disagree: bool


def verdicts(records: Sequence[Record]) -> tuple[list[str], list[Verdicts]]:
    """The representations, and a row a claim and variable with a cell for each of them."""
    kinds, rows = _kinds(records), []
    order = [*CLAIMS, *(r["claim"] for r in records if r["claim"] not in CLAIMS)]
    asked = dict.fromkeys((str(r["claim"]), r.get("variable") or "") for r in records)
    for claim, variable in sorted(asked, key=lambda pair: order.index(pair[0])):
        own = [r for r in records if r["claim"] == claim and (r.get("variable") or "") == variable]
        cells = tuple(
            tuple(
                (family(r.get("estimator")), VERDICTS.get(r["verdict"], ""), str(r["verdict"]), str(r.get("sentence") or ""))
                for r in own
                if r["representation"] == kind
            )
            for kind in kinds
        )
        name, _, explanation = CLAIMS.get(claim, claim).partition(" (")
        explanation = "" if rows and rows[-1].claim == name else explanation.rstrip(")")
        rows.append(Verdicts(name, explanation, nuisance(variable), cells, bool(disagreements(own))))
    return [title(kind) for kind in kinds], rows


def theory(records: Sequence[Record]) -> Table:
    """A row a check: what is claimed, by which estimator, verdict by symbol and word, the numbers in words."""
    rows = []
    for claim in dict.fromkeys(str(record["claim"]) for record in records):
        split = disagreements([record for record in records if record["claim"] == claim])
        for record in (record for record in records if record["claim"] == claim):
            key = (claim, record["variable"], record["representation"])
            marks = (("estimators disagree", "One estimator finds this to hold, another violated."),) if key in split else ()
            verdict = record["verdict"]
            rows.append(
                (
                    Cell(
                        f"{VERDICTS.get(verdict, '')} {verdict}",
                        list(VERDICTS).index(verdict) if verdict in VERDICTS else None,
                        "",
                        marks,
                    ),
                    Cell(CLAIMS.get(claim, claim).split(" (")[0], None, nuisance(record.get("variable") or "")),
                    Cell(title(record["representation"])),
                    Cell(family(record.get("estimator"))),
                    Cell(record.get("sentence") or ""),
                )
            )
    columns = (("verdict", ""), ("claim", ""), ("representation", ""), ("estimator", ""), ("in words", ""))
    return Table("theory", columns, tuple(rows))


def settings(*values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, nested ones by dotted names; those that are not set are left out."""
    found = []
    for mapping in values:
        for key, value in mapping.items():
            if isinstance(value, Mapping):
                found += [(f"{key}.{name}", text) for name, text in settings(value)]
            elif value is not None and value != []:
                found.append((key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found


def numbers(chart: Chart, name: str) -> Table:
    """A chart's points as a table, for whoever cannot see the chart: a row a layer, a column a line, another for its null."""
    ticks = chart["x"]["ticks"]
    lines = [series for series in chart["series"] if series.get("style") != "crosses"]
    columns, cells = [("layer", "in forward order")], []
    for series in lines:
        points = {point["x"]: point for point in series["points"]}
        columns.append((series["name"], f"{chart['y']['label']}, with the 95 % interval"))
        cells.append(
            [_value(p.get("v"), interval(p.get("l"), p.get("h"))) for p in (points.get(i, {}) for i in range(len(ticks)))]
        )
        if any(point.get("n") is not None for point in points.values()):
            columns.append(
                (f"{series['name']}, {series.get('null', 'shuffled')}", "what comes out where there is nothing to find")
            )
            cells.append([_value(points.get(i, {}).get("n")) for i in range(len(ticks))])
    rows = tuple((Cell(tick, i), *(column[i] for column in cells)) for i, tick in enumerate(ticks))
    return Table(name, tuple(columns), rows)


def _kinds(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["representation"] for record in records))


def _of_information(record: Record, variable: str) -> Cell:
    ends = (record.get(f"{variable}_interval_lower"), record.get(f"{variable}_interval_upper"))
    return _bits(record.get(f"{variable}_information"), interval_in_bits(*ends))


def _bits(nats: float | None, note: str = "") -> Cell:
    return Cell("–") if nats is None else Cell(bits(nats), nats * BITS, note)


def _value(value: float | None, note: str = "") -> Cell:
    return Cell("–") if value is None else Cell(plain(value), value, note)


def _loss(record: Record) -> Cell:
    ends = interval_in_bits(record.get("loss_lower"), record.get("loss_upper"))
    return Cell(signed(record["loss"]), record["loss"], ends)


def _share(count: int | None, total: int) -> Cell:
    return Cell("–") if count is None else Cell(f"{count} of {total}", count / total)


def _marks(record: Record) -> Cell:
    marks = []
    for flag in flags(record):
        reason = f" Here: {record['ite_withheld']}." if flag == "ITE withheld" else ""
        marks.append((flag, FLAGS[flag] + reason))
    return Cell("" if marks else "–", float(len(marks)), "", tuple(marks))
