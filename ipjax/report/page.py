"""Fills the templates: one HTML file with its style, script, data and pictures inside, that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ipjax.report import charts, comparison, loss_charts, sentences, tables
from ipjax.report.charts import Chart
from ipjax.report.run import RECORDS, Run
from ipjax.report.words import FLAGS, SECTIONS, flags, interval, of, representations

LARGEST = 6_000_000  # bytes of a page


def build(run: Run) -> str:
    """The page of one run.

    **Raises:** `ValueError` for a run without label information, and for a page that would be too large.
    """
    plane = run.plane
    drawn: dict[str, list[Chart]] = {
        "planes": _each(charts.planes([run]) if representations(plane) else None),
        "ite": _each(charts.efficiency([run])),
        "kept": charts.kept(plane),
        "leak": charts.leakage(plane),
        "blocks": _each(loss_charts.blocks(run.ablation)),
        "curves": _each(loss_charts.channel_curves(run.ablation)),
        "rankings": loss_charts.rankings(run.rankings),
    }
    numbers = {key: _numbers(key, drawn[key]) for key in ("ite", "kept", "leak", "blocks")}
    marked = {flag for key in representations(plane) for record in of(plane, key) for flag in flags(record)}
    return _page(
        "report.html.jinja",
        drawn,
        run=run,
        numbers=numbers,
        files=RECORDS,
        sentences=sentences.summary(run),
        accuracy=_accuracy(run),
        layers=tables.layers(plane, run.ablation, run.second),
        channels=tables.channels(run.channels) if run.channels else None,
        areas=tables.areas(run.areas) if run.areas else None,
        verdicts=tables.verdicts(run.theory),
        theory=tables.theory(run.theory),
        settings=tables.settings(run.config),
        environment=tables.settings(run.environment),
        flags={flag: why for flag, why in FLAGS.items() if flag in marked},
        noise=None if run.noise is None else f"{run.noise:g}",
    )


def compare(runs: Sequence[Run]) -> str:
    """The page that puts runs side by side.

    **Raises:** `ValueError` for runs with nothing in common, see `comparison.common`.
    """
    shared = comparison.common(runs)
    drawn: dict[str, list[Chart]] = {
        "planes": [charts.planes(runs)],
        "ite": _each(charts.efficiency(runs, over_depth=True)),
        "label": [charts.label_over_depth(runs, key) for key in shared],
        "leak": _each(charts.leak_over_depth(runs)),
        "blocks": _each(loss_charts.block_losses(runs)),
    }
    return _page(
        "compare.html.jinja",
        drawn,
        runs=runs,
        sentences=comparison.sentences(runs),
        overview=comparison.overview(runs),
        differing=comparison.differing(runs),
    )


def _each(chart: Chart | None) -> list[Chart]:
    return [] if chart is None else [chart]


def _accuracy(run: Run) -> str | None:
    accuracy = comparison.accuracy(run)
    if accuracy is None:
        return None
    value, lower, upper = (100 * number for number in accuracy)
    return f"{value:.1f} % {interval(lower, upper, 1)}"


def _numbers(name: str, drawn: Sequence[Chart]) -> list[tuple[str, tables.Table]]:
    return [(chart.get("title", ""), tables.numbers(chart, f"{name}-{i}")) for i, chart in enumerate(drawn)]


def _page(template: str, drawn: Mapping[str, Any], **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("ipjax.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["sections"] = SECTIONS
    environment.filters["data_uri"] = lambda data: f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    style, script = _asset("page.css"), _asset("charts.js") + _asset("page.js")
    html = environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}",
        data=_embedded(drawn),
        drawn=drawn,
        **values,
    )
    if len(html.encode()) > LARGEST:
        raise ValueError(
            f"page: {len(html.encode()) / 1e6:.1f} MB, expected at most {LARGEST / 1e6:.0f}; leave out pictures or layers"
        )
    return html


def _embedded(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _asset(name: str) -> str:
    return files("ipjax.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
