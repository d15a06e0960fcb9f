"""Figures of attribution maps, from the record alone: a row an image, a column a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ipjax.attribution import Attribution
from ipjax.plotting.style import STYLE

MOST_IMAGES, MOST_PHOTOGRAPHS = 12, 8
MOST_LAYERS = 10
LOWERS, RAISES, WRONG = "#2166AC", "#B2182B", "#B2182B"
# Zero is transparent: the grey image is left as it is where nothing is attributed. Few levels of colours and greys, since files
# of so many small pictures grow large.
SIGNED = LinearSegmentedColormap.from_list("signed", [(LOWERS, 0.85), ("white", 0), (RAISES, 0.85)], N=15)
_GREYS = 8
_MOST_CELLS = 64  # of a map along a side, when drawn; images with more pixels count as photographs
_GAP, _LEFT, _TOP = 0.07, 2.2, 0.45  # between panels and before the first, in units of a panel's width
_INCHES, _HEAD, _FOOT = 0.74, 0.8, 0.45  # of a panel, of the title with the colour bar, of the note
_LEAST_WIDTH = 8.0  # inches, which the words beside the colour bar and the note need


def figures(attribution: Attribution) -> dict[str, Figure]:
    """`attribution`: integrated gradients and layer conductance; `attribution_channels`: a channel of each layer.

    At most `MOST_IMAGES` images are drawn, `MOST_PHOTOGRAPHS` of more than 64 pixels a side (all of as many classes, evenly
    spaced, as fit), and `MOST_LAYERS` layers (evenly spaced, with the first and the last). Every panel has its own scale,
    symmetric about zero: colour is full at the 99th percentile of the magnitudes that are not zero, so that one outstanding
    place does not hide the others.
    """
    inner = [layer for layer in attribution.maps if layer != "input"]
    drawn = _even(inner, MOST_LAYERS)
    rows = _rows(attribution)
    shown = f"{len(rows)} of {len(attribution.positions)} images, {len(drawn)} of {len(inner)} layers with space"
    whole = {"input": "integrated\ngradients"} | {layer: layer for layer in drawn}
    single = {layer: f"{layer}\nchannel {attribution.channels[layer]}" for layer in drawn}
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        found = {"attribution": _grid(attribution, rows, attribution.maps, whole, shown)}
        found["attribution"].suptitle("Where each layer's conductance lies, layers from first to last", fontsize=11)
        if drawn:
            found["attribution_channels"] = _grid(attribution, rows, attribution.channel_maps, single, shown)
            found["attribution_channels"].suptitle("Where one channel of each layer has its conductance", fontsize=11)
    return found


def _grid(
    attribution: Attribution, rows: Sequence[int], maps: dict[str, np.ndarray], columns: dict[str, str], shown: str
) -> Figure:
    """The image, then its map of each column's layer over the grey image."""
    tall = attribution.images.shape[1] / attribution.images.shape[2]
    width, height = _LEFT + (len(columns) + 1) * (1 + _GAP), _TOP + len(rows) * (tall + _GAP)
    inches = (max(_LEAST_WIDTH, _INCHES * width), _INCHES * height + _HEAD + _FOOT)
    figure = Figure(figsize=inches)
    ax = figure.add_axes((0, _FOOT / inches[1], 1, _INCHES * height / inches[1]))
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.axis("off")

    def show(values: np.ndarray, row: int, column: int, **how: Any) -> AxesImage:
        left, top = _LEFT + column * (1 + _GAP), _TOP + row * (tall + _GAP)
        return ax.imshow(values, extent=(left, left + 1, top + tall, top), interpolation="nearest", aspect="equal", **how)

    for column, text in enumerate(["image", *columns.values()]):
        ax.text(_LEFT + column * (1 + _GAP) + 0.5, _TOP - 0.08, text, ha="center", va="bottom", fontsize=7)
    for at, row in enumerate(rows):
        _caption(ax, attribution, row, _TOP + at * (tall + _GAP) + tall / 2)
        show(attribution.images[row] // 16 * 17, at, 0)  # in 16 levels
        backdrop = _backdrop(attribution.images[row])
        for column, layer in enumerate(columns, start=1):
            cells = _in_cells(maps[layer][row])
            scale = _scale(cells)
            show(backdrop, at, column, cmap="gray", vmin=0, vmax=1)
            show(cells, at, column, cmap=SIGNED, norm=Normalize(-scale, scale)).set_gid(f"{layer}/{row}")
    _bar(figure, attribution, shown)
    return figure


def _bar(figure: Figure, attribution: Attribution, shown: str) -> None:
    """What the colours mean, and what is drawn."""
    named = {"predicted": "the logit of the predicted class", "contrast": "a fixed contrast of the logits"}
    target = named.get(str(attribution.target), f"the logit of class {attribution.target}")
    inches = figure.get_figheight()
    ax = figure.add_axes((0.37, 1 - 0.58 / inches, 0.26, 0.12 / inches))
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), SIGNED), cax=ax, orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["", "0", ""])
    bar.ax.tick_params(labelsize=7, length=2)
    for x, side, align, colour in ((-0.03, "lowers", "right", LOWERS), (1.03, "raises", "left", RAISES)):
        ax.text(x, 0.5, f"{side} {target}", ha=align, va="center", fontsize=8, color=colour, transform=ax.transAxes)
    note = (
        "Each panel has its own scale, full colour at the 99th percentile of its magnitudes. Squares are places of the layer\n"
        f"(sums of neighbouring ones where it has more than {_MOST_CELLS} a side). Shown: {shown}."
    )
    figure.text(0.5, 0.08 / inches, note, ha="center", va="bottom", fontsize=7, color="0.35")


def _caption(ax: Axes, attribution: Attribution, row: int, middle: float) -> None:
    label, predicted, kind = attribution.labels[row], attribution.predicted[row], attribution.kinds[row]
    right = _LEFT - 0.12
    why = kind if kind != "chosen" else f"image {attribution.positions[row]}"
    ax.text(right, middle - 0.16, why, ha="right", va="center", fontsize=7, color="0.35")
    classes = ax.text(right, middle + 0.16, f"true {label}, predicted {predicted}", ha="right", va="center", fontsize=7)
    if label != predicted:
        classes.set(text=f"{classes.get_text()} ✗", color=WRONG, weight="bold")


def _rows(attribution: Attribution) -> list[int]:
    """All images, or those of as many classes, evenly spaced, as fit; of one class with too many, evenly spaced ones."""
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(attribution.labels.tolist()):
        by_class.setdefault(label, []).append(row)
    most = MOST_IMAGES if max(attribution.images.shape[1:3]) <= _MOST_CELLS else MOST_PHOTOGRAPHS
    if len(attribution.labels) <= most:
        return list(range(len(attribution.labels)))
    classes = _even(list(by_class), max(1, most // max(map(len, by_class.values()))))
    return _even(sorted(row for label in classes for row in by_class[label]), most)


def _even(items: Sequence, most: int) -> list:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.rint(np.linspace(0, len(items) - 1, most)).astype(int)]


def _scale(values: Float[np.ndarray, "rows columns"]) -> float:
    """Where colour is full."""
    magnitudes = np.abs(values[values != 0])
    return float(np.quantile(magnitudes, 0.99)) if len(magnitudes) else 1.0


def _in_cells(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "rows columns"]:
    """Maps finer than can be seen are summed in square cells: conductance adds up."""
    cell = -(-max(values.shape) // _MOST_CELLS)
    for axis in (0, 1):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], cell), axis=axis)
    return values


def _backdrop(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "rows columns"]:
    """The image in light greys, from 0.55 to 1, so that the colours over it stand out."""
    grey = _in_cells(image.mean(axis=2)) / _in_cells(np.full(image.shape[:2], 255.0))
    return 0.55 + 0.45 * np.rint((_GREYS - 1) * grey) / (_GREYS - 1)
