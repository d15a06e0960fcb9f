"""Fills the tables of docs/performance.md from the numbers in docs/performance, and draws its figure.

    python -m benchmarks.performance

A table stands between `<!-- FILE.PART: COLUMN, COLUMN -->` and `<!-- end -->`: the rows of that part of FILE.json, and of
these columns, or of all that hold single values. Of the part `environment` it is a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.environment import read, short
from docs.gallery import smaller
from ipjax.files import replacing

BEGUN = re.compile(r"<!-- \w+\.\w+(?:: [\w, ]+)? -->\n")
MARKED = re.compile(r"(<!-- (\w+)\.(\w+)(?:: ([\w, ]+))? -->\n)(?:(?!<!-- \w+\.).)*?(<!-- end -->)", re.DOTALL)
PANELS = {  # part, unit, against -> title
    ("conductance", "s", None): "Conductance: time",
    ("memory", "B", None): "Conductance: planned memory",
    ("estimators", "s", "samples"): "Estimators: time",
    ("estimators", "s", "features"): "Estimators: time",
    ("estimators", "B", "samples"): "Estimators: planned memory",
    ("run", "s", "images"): "Steps of a run: time",
}


@dataclass(frozen=True)
class Config:
    """Where the documents are."""

    docs: Path = Path(__file__).parents[1] / "docs"


def main(config: Config) -> None:
    """Writes the page again, and figures/scaling.png. Raises `ValueError` for a file that is not one of these numbers."""
    numbers = {path.stem: read(path) for path in sorted((config.docs / "performance").glob("*.json"))}
    if "series" not in numbers.get("scaling", {}):
        raise ValueError(
            f"expected {config.docs / 'performance' / 'scaling.json'} with series; run python -m benchmarks.scaling"
        )
    page = config.docs / "performance.md"
    text = filled(page.read_text(), numbers)
    with replacing(page) as file:
        file.write(text.encode())
    figure = config.docs / "figures" / "scaling.png"
    _draw(numbers["scaling"]["series"], figure)
    drawn = smaller(figure)
    with replacing(figure) as file:
        file.write(drawn)


def filled(page: str, numbers: Mapping[str, Any]) -> str:
    """The page with all its tables made anew; one whose numbers are not there says so. Raises `ValueError` without an end."""

    def fill(found: re.Match[str]) -> str:
        begin, file, part, columns, end = found.groups()
        values = numbers.get(file, {}).get(part)
        if values is None:
            text = "*Not taken yet.*"
        elif part == "environment":
            text = _sentence(values)
        else:
            text = _table(values, columns.split(", ") if columns else None)
        return f"{begin}\n{text}\n\n{end}"

    text, found = MARKED.subn(fill, page)
    if found < (begun := len(BEGUN.findall(page))):
        raise ValueError(f"page: expected <!-- end --> after each of {begun} tables, found it after {found}; write it there")
    return text


def _sentence(environment: Mapping[str, Any]) -> str:
    machine = f"{environment['processor']}, {environment['cores']} cores, {environment['memory_gib']} GiB"
    left = ("processor", "cores", "memory_gib", "devices")
    return f"{machine}; {', '.join(f'{name} {value}' for name, value in environment.items() if name not in left)}."


def _table(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any], columns: Sequence[str] | None) -> str:
    rows = [rows] if isinstance(rows, Mapping) else rows
    if columns is None:
        columns = [name for name, value in rows[0].items() if not isinstance(value, list | dict)]
    lines = [[name.replace("_", " ") for name in columns], ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else short(value)


def _draw(series: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel for each kind of series, on logarithmic axes, with the exponents in the legends."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    from ipjax.plotting.style import STYLE

    with plt.rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        figure, axes = plt.subplots(2, 3, figsize=(13, 10), layout="constrained")
        for axis, ((part, unit, against), title) in zip(axes.flat, PANELS.items(), strict=True):
            some = [s for s in series if (s["part"], s["unit"]) == (part, unit) and against in (None, s["against"])]
            for i, one in enumerate(some):
                name = one["what"] if against else f"{one['what']}, {one['against']}"
                style = {"color": f"C{i % 10}", "marker": "os"[i // 10], "ms": 3, "label": f"{name}: {one['exponent']:.2f}"}
                axis.loglog(one["x"], one["y"], **style)
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_visible(bool(some))
            axis.set(title=title, xlabel=against or "size", ylabel={"s": "seconds", "B": "bytes"}[unit])
            if some:
                axis.legend(fontsize=6.5, ncols=1 if len(some) < 4 else 2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
        figure.savefig(path)
        plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
