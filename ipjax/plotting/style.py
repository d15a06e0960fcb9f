"""What all figures share: colours, titles, units, and columns of records as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ipjax.files import Record
from ipjax.names import BITS

COLOURS = {"activation": "#444444", "contrast": "#0072B2", "predicted": "#D55E00"}
VARIABLE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
DEPTH = LinearSegmentedColormap.from_list("depth", colormaps["viridis_r"](np.linspace(0.08, 1, 256)))
STYLE = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ipjax",
}


def numbers(records: Sequence[Record], *keys: str) -> np.ndarray:
    """A column, or with several keys one key a record; NaN where there is no value."""
    values = [record.get(key) for record, key in zip(records, keys * (len(records) // len(keys)), strict=True)]
    return np.array([np.nan if value is None else value for value in values], float)


def bits(records: Sequence[Record], *keys: str) -> np.ndarray:
    """`numbers` of columns in nats, in bits."""
    return numbers(records, *keys) * BITS


def place(figure: Figure) -> None:
    """Places the axes for good: otherwise each drawing of the figure does so again, which takes as long as the rest of it."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # "none" would leave an engine, for which saving draws everything twice


def save(figure: Figure, stem: Path, endings: Sequence[str] = ("png", "svg")) -> None:
    """Writes a figure into a file of each kind, the same bytes each time (of these kinds). Raises `OSError` where it cannot."""
    place(figure)
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        for ending in endings:
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(stem.with_name(f"{stem.name}.{ending}"), metadata=metadata)


def depth_colours(count: int) -> np.ndarray:
    """`[count, 4]`, a colour a layer, from the input (light) to the output (dark)."""
    return DEPTH(np.linspace(0, 1, count))
