"""Figure of the checks of `ipjax.bottleneck`, from records only: claims with their verdicts, and the steps behind data
processing. In bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ipjax.files import Record
from ipjax.names import BITS, TITLES, family, nuisance
from ipjax.plotting.style import STYLE, bits

VERDICTS = {
    "holds": ("✓", "#009E73"),
    "violated": ("✗", "#D55E00"),
    "undecided": ("?", "#E6C229"),
    "withheld": ("–", "#BBBBBB"),
}
CLAIMS = {
    "data_processing": "Data processing, {}\nlargest rise over a step",
    "compression": "Compression of the input\nlast less highest layer",
    "sufficiency": "Sufficiency for the label\nlast layer less 95 % of H(Y)",
    "invariance": "Invariance to {}\nlast less highest layer",
}
ESTIMATOR_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def figures(theory: Sequence[Record], steps: Sequence[Record]) -> dict[str, Figure]:
    """The figure `"theory"`, from the records of `bottleneck.check` and `bottleneck.steps`."""
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        return {"theory": theory_figure(theory, steps)}


def theory_figure(theory: Sequence[Record], steps: Sequence[Record]) -> Figure:
    """Above, a claim a row and a representation and estimator a column: verdict by colour and symbol, the number that decides
    it and its interval. Below, by representation, how much the information of input and label rises over every step from the
    layer that a layer is a function of: filled where the step violates data processing, with its own 95 % interval (thick)
    and the one for all steps together (thin)."""
    columns = list(dict.fromkeys((record["representation"], record["estimator"]) for record in theory))
    order = [*TITLES, *dict.fromkeys(name for name, _ in columns if name not in TITLES)]
    columns.sort(key=lambda column: order.index(column[0]))
    claims = sorted(
        {(r["claim"], r["variable"]): None for r in theory},
        key=lambda claim: (list(CLAIMS).index(claim[0]), claim[1] == "label"),
    )
    panels = [name for name in order if any(step["representation"] == name for step in steps)]
    height = 0.62 * len(claims) + 1.1
    width = max(9.0, 1.25 * len(columns) + 2.2)
    figure = Figure(figsize=(width, height + (6.4 if panels else 0)), layout="constrained")
    rows: Any = figure.subfigures(2, 1, height_ratios=(height, 6.4)) if panels else [figure]
    _matrix(rows[0].subplots(), theory, claims, columns)
    if panels:
        _draw_steps(rows[1].subplots(2, len(panels), sharex="col", sharey="row", squeeze=False), steps, panels)
        rows[1].suptitle(
            "Rise of information over each step of the network's graph (filled: more than data processing allows)", fontsize=10
        )
    figure.suptitle("Predictions of the information bottleneck, of the quantities as they were estimated", fontsize=11)
    return figure


def _matrix(ax: Axes, theory: Sequence[Record], claims: Sequence[tuple[str, str]], columns: Sequence[tuple[str, str]]) -> None:
    for record in theory:
        x = columns.index((record["representation"], record["estimator"]))
        y = claims.index((record["claim"], record["variable"]))
        symbol, colour = VERDICTS[record["verdict"]]
        ax.add_patch(Rectangle((x - 0.48, y - 0.45), 0.96, 0.9, color=colour, alpha=0.3, lw=0))
        ax.text(x - 0.42, y, symbol, ha="left", va="center", fontsize=14, color="0.15", family="DejaVu Sans")
        if record["value"] is None:
            ax.text(x + 0.1, y, "withheld", ha="center", va="center", fontsize=8, color="0.35")
            continue
        shift = record["threshold"] if record["claim"] == "sufficiency" else 0.0
        value, low, high = ((record[key] - shift) * BITS for key in ("value", "lower", "upper"))
        ax.text(x + 0.1, y - 0.16, _signed(value), ha="center", va="center", fontsize=9)
        ax.text(x + 0.1, y + 0.2, f"{_signed(low)} to {_signed(high)}", ha="center", va="center", fontsize=6.5, color="0.25")
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(claims) - 0.5, -0.5)
    ax.set_yticks(
        range(len(claims)),
        [CLAIMS[claim].format(nuisance(variable)) for claim, variable in claims],
        fontsize=8,
    )
    ax.set_xticks(range(len(columns)), [family(text) for _, text in columns], fontsize=8)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    for name in dict.fromkeys(name for name, _ in columns):
        at = [i for i, column in enumerate(columns) if column[0] == name]
        ax.text((at[0] + at[-1]) / 2, -0.86, TITLES.get(name, name), ha="center", va="bottom", fontsize=9, weight="bold")
        if at[0] > 0:
            ax.axvline(at[0] - 0.5, color="0.4", lw=0.8)
    for symbol_name, (symbol, colour) in VERDICTS.items():
        ax.plot([], [], "s", color=colour, alpha=0.5, ms=8, label=f"{symbol} {symbol_name}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, title="numbers in bits, with 95 % intervals")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")


def _draw_steps(axes: np.ndarray, steps: Sequence[Record], panels: Sequence[str]) -> None:
    estimators = list(dict.fromkeys(step["estimator"] for step in steps))
    for column, representation in zip(axes.T, panels, strict=True):
        own = sorted((s for s in steps if s["representation"] == representation), key=lambda step: step["depth"])
        pairs = list(dict.fromkeys((step["before"], step["layer"]) for step in own))
        for ax, variable in zip(column, ("input", "label"), strict=True):
            ax.axhline(0, color="0.3", lw=0.8)
            for i, estimator in enumerate(estimators):
                chosen = [s for s in own if (s["variable"], s["estimator"]) == (variable, estimator) and s["value"] is not None]
                if not chosen:
                    continue
                shift = 0.22 * (i - (len(estimators) - 1) / 2)
                at = np.array([pairs.index((step["before"], step["layer"])) for step in chosen]) + shift
                colour = ESTIMATOR_COLOURS[i % len(ESTIMATOR_COLOURS)]
                ax.vlines(at, bits(chosen, "simultaneous_lower"), bits(chosen, "simultaneous_upper"), color=colour, lw=0.6)
                ax.vlines(at, bits(chosen, "lower"), bits(chosen, "upper"), color=colour, lw=2, alpha=0.5)
                value, violated = bits(chosen, "value"), np.array([step["verdict"] == "violated" for step in chosen])
                ax.plot(at[violated], value[violated], "o", color=colour, ms=3.8)
                ax.plot(at[~violated], value[~violated], "o", mfc="white", mec=colour, ms=3.8, mew=0.9)
                ax.plot([], [], "o", color=colour, ms=4, label=family(estimator))
            ax.set_xlim(-0.6, len(pairs) - 0.4)
        column[0].set_title(TITLES.get(representation, representation))
        column[1].set_xticks(range(len(pairs)), [f"→ {layer}" for _, layer in pairs], rotation=60, ha="right", fontsize=7)
    axes[0, 0].set_ylabel("rise of I(X; C)  [bits]")
    axes[1, 0].set_ylabel("rise of I(C; Y)  [bits]")
    axes[1, 0].legend(loc="upper left", fontsize=8)
