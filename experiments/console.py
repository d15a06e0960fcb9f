"""What a run shows: messages, progress, the table at the end."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.table import Table
from rich.text import Text

from ipjax import InformationPlane
from ipjax.names import BITS
from ipjax.runtime import is_main

console = Console(stderr=True)


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


@contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """Shows a bar with rate and remaining time; gives the function that advances it."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not is_main()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)
        bar.update(task, completed=total)  # parts of one need not sum up to it


def tracking(advance: Callable[[float], None], share: float) -> Callable[[Sequence[Any]], Iterator[Any]]:
    """A wrapper for sequences that advances a bar by `share` after each item, as `track` of ipjax's functions."""

    def track(items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            yield item
            advance(share)

    return track


@contextmanager
def errors_shown(*, stopped: str) -> Iterator[None]:
    """Ends the program with a message, and no traceback, for an error that the user can mend or an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; {stopped}")
        sys.exit(130)
    except (ValueError, KeyError, OSError) as error:
        console.print("error:", style="bold red", end=" ")
        say(error.args[0] if isinstance(error, KeyError) else str(error))
        sys.exit(2)


def say(message: str) -> None:
    """A line on the error stream, as it is."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """A line that begins with a coloured `warning:`."""
    console.print("warning:", style="bold yellow", end=" ")
    say(message)


def print_summary(
    plane: InformationPlane, channels: InformationPlane, accuracy: float | None, out: Path, seconds: float
) -> None:
    rows = {(r["representation"], r["layer"]): r for r in plane.records if r["input_estimator"] is not None}
    title = "Bits. act: activation, con, pred: conductance to contrast, predicted class"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("\nlayer", no_wrap=True)
    columns = {
        "activation": ("act\nI(X;C)", "act\nI(C;Y)", "act\nI(C;P)"),
        "contrast": ("con\nI(X;C)", "con\nI(C;Y)", "con\nITE"),
        "predicted": ("pred\nI(C;Y)", "pred\nleak"),
    }
    for header in itertools.chain(*columns.values()):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in dict.fromkeys(layer for _, layer in rows):
        activation, contrast, predicted = (rows.get((name, layer), {}) for name in columns)
        cells = [_cell(activation, variable) for variable in ("input", "label", "position")]
        cells += [_cell(contrast, "input"), _cell(contrast, "label")]
        cells.append("-" if contrast.get("ite") is None else f"{contrast['ite']:.2f}")
        cells.append(_cell(predicted, "label"))
        cells.append("-" if predicted.get("leak") is None else f"{predicted['leak'] * BITS:.2f}")
        table.add_row(layer, *cells)
    shown = Console()
    shown.print(table)
    shown.print("P: position  * input information saturated  ° not above the null", highlight=False)
    best = max(
        (record for record in channels.records if record["representation"] == "activation"),
        key=lambda record: record["label_information"],
    )
    told = f"{best['label_information'] * BITS:.2f} bits of the label"
    shown.print(f"channel that tells most: {best['channel']} of {best['layer']}, {told}", highlight=False)
    told = "" if accuracy is None else f"accuracy {accuracy:.1%}; "
    shown.print(f"{told}done in {seconds:.0f} s; results in", highlight=False)
    print(out)


def _cell(record: dict[str, Any], variable: str) -> str:
    value = record.get(f"{variable}_information")
    if value is None:
        return "-"
    null = record.get(f"{variable}_null_upper")
    mark = "*" if variable == "input" and record["input_saturated"] else "°" if null is not None and value <= null else ""
    return f"{value * BITS:.2f}{mark}"
