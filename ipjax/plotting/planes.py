"""Figures, from records only: information planes, ITE and leak, what is kept and dropped, channels, noise profile. In bits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from adjustText import adjust_text
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ipjax.channels import concentration
from ipjax.files import Record
from ipjax.information_plane import InformationPlane
from ipjax.names import BITS, TITLES
from ipjax.plotting.style import COLOURS, DEPTH, STYLE, VARIABLE_COLOURS, bits, depth_colours, numbers, place


def figures(plane: InformationPlane, profile: InformationPlane, channels: InformationPlane) -> dict[str, Figure]:
    """Every figure of a run by name, from the records of `measure_plane` (with ITE and leak), of `profile` over the noise and
    of `measure_channels`."""
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        return {
            "information_plane": information_plane(plane),
            "ite": efficiency(plane),
            "kept_and_dropped": kept_and_dropped(plane),
            "channels": channel_information(channels, plane),
            "noise_profile": noise_profile(profile, plane),
        }


def information_plane(plane: InformationPlane) -> Figure:
    """I(C; Y) over I(X; C), a panel a representation: layers joined in forward order and coloured by depth, with their 95 %
    intervals, the null of shuffled labels (grey) and the ceilings (dashed). Below, by layer, what the estimator guarantees:
    the brackets of both axes around their values."""
    panels = _by_representation(plane)
    names = _layers(panels)
    colours = depth_colours(len(names))
    figure = Figure(figsize=(4.4 * len(panels) + 0.8, 7.2), layout="constrained")
    planes, brackets = figure.subplots(2, len(panels), sharex="row", sharey="row", squeeze=False, height_ratios=(1.9, 1))
    for ax, (representation, records) in zip(planes, panels.items(), strict=True):
        x, y = bits(records, "input_information"), bits(records, "label_information")
        ax.plot(x, bits(records, "label_null"), color="0.7", lw=0.8, marker=".", ms=3, zorder=1)
        ax.plot(x, y, color="0.8", lw=1, zorder=2)
        for record, at_x, at_y in zip(records, x, y, strict=True):
            colour = colours[names.index(record["layer"])]
            style = {"color": colour, "lw": 1.8, "alpha": 0.5, "solid_capstyle": "butt", "zorder": 3}
            ax.plot(bits([record] * 2, "input_interval_lower", "input_interval_upper"), [at_y, at_y], **style)
            ax.plot([at_x, at_x], bits([record] * 2, "label_interval_lower", "label_interval_upper"), **style)
            face, edge = ("white", colour) if record["input_saturated"] else (colour, "white")
            ax.plot(at_x, at_y, "o", ms=6.5, mfc=face, mec=edge, mew=0.8, zorder=4)
        ax.set_title(TITLES.get(representation, representation))
        ax.set_xlabel("I(X; C)  [bits]")
    _mark_ceilings(planes, panels)
    for ax, records in zip(brackets, panels.values(), strict=True):
        at = np.array([names.index(record["layer"]) for record in records])
        for variable, shift, colour, label in (("input", -0.15, "0.45", "I(X; C)"), ("label", 0.15, "#0072B2", "I(C; Y)")):
            ax.vlines(
                at + shift,
                bits(records, f"{variable}_lower"),
                bits(records, f"{variable}_upper"),
                color=colour,
                lw=3,
                alpha=0.35,
            )
            ax.plot(at + shift, bits(records, f"{variable}_information"), "_", color=colour, ms=6, mew=1.6, label=label)
            ax.axhline(bits(records, f"{variable}_ceiling").max(), color=colour, lw=0.8, ls="--")
        ax.axhline(0, color="0.3", lw=0.6)
        ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    planes[0].set_ylabel("I(C; Y)  [bits]")
    brackets[0].set_ylabel("value and bracket  [bits]")
    brackets[0].legend(ncols=2, loc="upper left", bbox_to_anchor=(0, 1.16), borderaxespad=0, fontsize=8)
    _depth_bar(figure, planes, names)
    first = next(iter(panels.values()))[0]
    figure.suptitle(f"Information planes ({first['input_estimator']}, {first['num_samples']} images)", fontsize=11)
    place(figure)  # which the labels below need
    for ax, records in zip(planes, panels.values(), strict=True):
        _label_points(ax, records)
    return figure


def efficiency(plane: InformationPlane) -> Figure:
    """ITE = I(C; Y) / I(X; C) by layer with its 95 % interval, a line a representation; withheld values as crosses at the
    bottom. Below, by each estimator, how much the target leaks (see `target_leakage`): bars with their 95 % intervals, and
    beside them what a random class gives."""
    panels = _by_representation(plane)
    names = _layers(panels)
    leaks: dict[str, list[Record]] = {}
    for record in plane.records:
        if record.get("leak") is not None:
            leaks.setdefault(record["label_estimator"], []).append(record)
    ratios = [2.0] + [1.0] * len(leaks)
    figure = Figure(figsize=(max(6.8, 0.46 * len(names) + 1.5), 0.8 + 1.9 * sum(ratios)), layout="constrained")
    ax, *below = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for representation, records in panels.items():
        colour = COLOURS.get(representation, "0.5")
        at = np.array([names.index(r["layer"]) for r in records])
        value, low, high = (numbers(records, key) for key in ("ite", "ite_lower", "ite_upper"))
        ax.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
        null = numbers(records, "label_null") / numbers(records, "input_information")
        ax.plot(at, null, ":", color=colour, lw=1)
        ax.plot(at, value, "o-", color=colour, ms=4, lw=1.4, label=TITLES.get(representation, representation))
        withheld = np.isnan(value)
        if withheld.any():
            ax.plot(at[withheld], np.zeros(withheld.sum()), "x", color=colour, ms=5, clip_on=False)
    ax.plot([], [], ":", color="0.4", label="with shuffled labels")
    ax.plot([], [], "x", color="0.4", label="withheld")
    ax.set_ylim(0, None)
    ax.set_ylabel("ITE = I(C; Y) / I(X; C)")
    ax.legend(loc="best")
    ax.set_title("Information Transformation Efficiency, with 95 % bands")
    for ax, (estimator, records) in zip(below, leaks.items(), strict=True):
        at = np.array([names.index(record["layer"]) for record in records])
        ax.bar(at, bits(records, "leak"), 0.6, color=COLOURS["predicted"], alpha=0.75, label="to the predicted class")
        ax.vlines(at, bits(records, "leak_lower"), bits(records, "leak_upper"), color="0.2", lw=1)
        ax.hlines(bits(records, "leak_null"), at - 0.3, at + 0.3, color="k", lw=1.6, label="to a random class an image")
        ax.axhline(0, color="0.3", lw=0.8)
        ax.set_ylabel(f"leak by {estimator.split('(')[0]}  [bits]")
    if below:
        below[0].set_title("Leak: label information of a conductance to a class, less that of the one to the contrast")
        low, high = below[0].get_ylim()
        below[0].set_ylim(low, high + 0.25 * (high - low))
        below[0].legend(ncols=2, loc="upper left")
    figure.axes[-1].set_xticks(range(len(names)), names, rotation=45, ha="right")
    return figure


def kept_and_dropped(plane: InformationPlane) -> Figure:
    """By layer, the information about the label and about each nuisance above its null, a panel a representation."""
    panels = _by_representation(plane)
    first = next(iter(panels.values()))[0]
    variables = [
        key.removesuffix("_information") for key in first if key.endswith("_information") and key != "input_information"
    ]
    names = _layers(panels)
    figure = Figure(figsize=(max(4.6, 0.24 * len(names) + 0.6) * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (representation, records) in zip(axes, panels.items(), strict=True):
        at = [names.index(r["layer"]) for r in records]
        for variable, colour in zip(variables, itertools.cycle(VARIABLE_COLOURS), strict=False):
            value, low, high = (
                bits(records, f"{variable}_{end}") for end in ("information", "interval_lower", "interval_upper")
            )
            null = np.nan_to_num(bits(records, f"{variable}_null"))
            ax.fill_between(at, low - null, high - null, color=colour, alpha=0.15, lw=0)
            ax.plot(at, value - null, "o-", color=colour, ms=3.5, lw=1.4, label=variable)
        ax.axhline(0, color="0.3", lw=0.8)
        ax.set_title(TITLES.get(representation, representation))
        ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes[0].set_ylabel("information above its null  [bits]")
    axes[0].legend(title="about the")
    figure.suptitle("Label and nuisance information above the null of shuffled values", fontsize=11)
    return figure


def channel_information(channels: InformationPlane, plane: InformationPlane) -> Figure:
    """How label information is spread over single channels, a panel a representation: above, by layer, the channels' quantiles
    with the best one's number, the null, and what the layer tells as a whole above its own null. Below, the share of channels
    above the null and the share that holds half of what these hold."""
    panels = _by_representation(plane)
    names = _layers(panels)
    figure = Figure(figsize=(max(4.4, 0.25 * len(names) + 0.6) * len(panels), 6.4), layout="constrained")
    above, below = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(1.7, 1))
    estimators = dict.fromkeys(record["label_estimator"] for record in plane.records)
    for top, bottom, representation in zip(above, below, panels, strict=True):
        colour = COLOURS.get(representation, "0.5")
        drawn = [r for r in channels.select(representation=representation).records if r["layer"] in names]
        by_layer: dict[str, list[Record]] = {}
        for record in drawn:
            by_layer.setdefault(record["layer"], []).append(record)
        at = [names.index(layer) for layer in by_layer]
        values = [bits(rows, "label_information") for rows in by_layer.values()]
        low, middle, high, most = (np.array([np.quantile(v, q) for v in values]) for q in (0.1, 0.5, 0.9, 1.0))
        top.fill_between(at, high, most, color=colour, alpha=0.12, lw=0, label="best 10 % of channels")
        top.fill_between(at, low, high, color=colour, alpha=0.35, lw=0, label="middle 80 %")
        top.plot(at, middle, color=colour, lw=1.6, label="median channel")
        top.plot(at, most, ".", color=colour, ms=4)
        for x, y, rows in zip(at, most, by_layer.values(), strict=True):
            best = next(record for record in rows if record["rank"] == 1)
            style = {"ha": "center", "fontsize": 6, "color": colour, "path_effects": [withStroke(linewidth=2, foreground="w")]}
            top.annotate(str(best["channel"]), (x, y), (0, 3), textcoords="offset points", **style)
        null = [rows[0]["label_null_upper"] * BITS for rows in by_layer.values()]
        top.plot(at, null, ":", color="0.35", lw=1.2, label="largest of shuffled labels")
        for estimator, style in zip(estimators, itertools.cycle(("-", "--")), strict=False):
            rows = plane.select(representation=representation, label_estimator=estimator).records
            above_null = bits(rows, "label_information") - np.nan_to_num(bits(rows, "label_null"))
            label = f"whole layer, above null ({estimator.split('(')[0]})"
            top.plot([names.index(r["layer"]) for r in rows], above_null, style, color="k", lw=1, label=label)
        top.axhline(0, color="0.3", lw=0.6)
        top.set_title(TITLES.get(representation, representation))
        shares = list(concentration(InformationPlane(tuple(drawn))).values())
        informative = [100 * share.num_informative / share.num_channels for share in shares]
        half = [100 * share.num_holding_half / share.num_channels for share in shares]
        bottom.plot(at, informative, "o-", color="0.6", ms=3, lw=1.2, label="tell more than shuffled labels")
        bottom.plot(at, half, "o-", color=colour, ms=3.5, lw=1.6, label="hold half of what these tell")
        bottom.set_ylim(0, 105)
        bottom.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    above[0].set_ylabel("I(one channel; Y)  [bits]")
    figure.legend(*above[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    below[0].set_ylabel("share of channels  [%]")
    below[0].legend(fontsize=7.5)
    figure.suptitle("Label information of single channels (numbers: the best channel of each layer)", fontsize=11)
    return figure


def noise_profile(profile: InformationPlane, plane: InformationPlane) -> Figure:
    """Both axes over the noise level, a line a layer coloured by depth."""
    panels = _by_representation(profile)
    figure = Figure(figsize=(3.6 * len(panels) + 0.8, 5.6), layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    names = _layers(panels)
    colours = depth_colours(len(names))
    for column, (representation, records) in zip(grid.T, panels.items(), strict=True):
        for ax, variable in zip(column, ("input", "label"), strict=True):
            for name, colour in zip(names, colours, strict=True):
                rows = [r for r in records if r["layer"] == name]
                ax.plot([r["noise"] for r in rows], bits(rows, f"{variable}_information"), "o-", color=colour, lw=1, ms=2.5)
            ceiling = records[0][f"{variable}_ceiling"] * BITS
            ax.axhline(ceiling, color="0.5", lw=0.8, ls="--")
            text = f"{'log₂ n' if variable == 'input' else 'H(Y)'} = {ceiling:.2f}"
            ax.text(records[-1]["noise"], ceiling, text, va="bottom", ha="right", color="0.35", fontsize=8)
            ax.set_xscale("log")
            ax.yaxis.set_major_locator(MaxNLocator(5))
        column[0].set_title(TITLES.get(representation, representation))
        column[1].set_xlabel("noise variance / median squared distance")
    grid[0, 0].set_ylabel("I(X; C)  [bits]")
    grid[1, 0].set_ylabel("I(C; Y)  [bits]")
    _depth_bar(figure, grid, names)
    figure.suptitle(f"Noise profile (the planes use {plane.records[0]['input_estimator']})", fontsize=11)
    return figure


def _by_representation(plane: InformationPlane) -> dict[str, list[Record]]:
    """Records with an input axis (those of the probe have none), by representation."""
    groups: dict[str, list[Record]] = {}
    for record in plane.records:
        if record.get("input_information") is not None:
            groups.setdefault(record["representation"], []).append(record)
    if not groups:
        raise ValueError("plane: no record has both axes, so there is nothing to draw")
    order = [*TITLES, *(name for name in groups if name not in TITLES)]
    return {name: groups[name] for name in order if name in groups}


def _layers(panels: dict[str, list[Record]]) -> list[str]:
    return list(dict.fromkeys(record["layer"] for records in panels.values() for record in records))


def _depth_bar(figure: Figure, axes: np.ndarray, names: list[str]) -> None:
    last = max(len(names) - 1, 1)
    bar = figure.colorbar(ScalarMappable(Normalize(0, last), DEPTH), ax=axes, ticks=[0, last], pad=0.01, aspect=30)
    bar.ax.set_yticklabels([names[0], names[-1]])
    bar.ax.invert_yaxis()


def _mark_ceilings(axes: Sequence[Axes], panels: dict[str, list[Record]]) -> None:
    """Sets the limits by the points; draws each ceiling, or says where it lies if that is far from all points."""
    everything = [record for records in panels.values() for record in records]
    x = bits(everything, "input_information")
    label, sample = bits(everything, "label_ceiling").max(), bits(everything, "input_ceiling").max()
    margin = 0.08 * np.ptp(x) + 0.1
    for ax in axes:
        ax.set_xlim(x.min() - margin, x.max() + margin)
        ax.set_ylim(min(0, ax.get_ylim()[0]), 1.1 * label)
        ax.axhline(label, color="0.5", lw=0.8, ls="--")
        ax.text(x.min() - margin, label, f" H(Y) = {label:.2f}", va="bottom", ha="left", color="0.35", fontsize=8)
        ax.axvline(sample, color="0.5", lw=0.8, ls="--")
        arrow = " →" if sample > x.max() + margin else ""
        note = f"log₂ n = {sample:.2f}{arrow}   grey: shuffled labels"
        ax.text(0.99, 0.01, note, transform=ax.transAxes, ha="right", va="bottom", color="0.35", fontsize=8)


def _label_points(ax: Axes, records: Sequence[Record]) -> None:
    x, y = bits(records, "input_information"), bits(records, "label_information")
    texts = [ax.text(x[i], y[i], record["layer"], fontsize=7, zorder=5) for i, record in enumerate(records)]
    adjust_text(
        texts,
        x=x,
        y=y,
        ax=ax,
        arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.5},
        expand=(1.2, 1.4),
        iter_lim=100,  # otherwise it takes a second, and as many as fit into it
    )
