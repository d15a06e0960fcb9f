"""Figures of ablations, from records only: what knocking out costs, and which scores of the layers predict it. In bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ipjax.files import Record
from ipjax.names import BITS
from ipjax.plotting.style import COLOURS, STYLE, bits, numbers
from ipjax.ranking import LOSSES, title

RANKINGS = {
    "conductance": ("conductance", "#D55E00", "-"),
    "activation": ("activation", "#444444", "-"),
    "gradient_x_activation": ("gradient × activation", "#0072B2", "--"),  # often equal to conductance
    "information": ("label information", "#009E73", "-"),
    "random": ("random", "0.6", "-"),
}
CURVES = {"deletion": "replaced, the best first", "insertion": "kept, the best first"}
PANELS = 4  # layers whose curves are drawn


def figures(ablation: Sequence[Record], areas: Sequence[Record], rankings: Sequence[Record]) -> dict[str, Figure]:
    """By name, from the records of `ipjax.ablation` and of `ipjax.ranking`: `"ablation"`, and `"rankings"` if there are any."""
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        found = {"ablation": losses(ablation, areas)}
        return found | {"rankings": correlations(rankings)} if rankings else found


def losses(ablation: Sequence[Record], areas: Sequence[Record]) -> Figure:
    """At the top (with blocks), the increase of the cross-entropy and the drop of the accuracy by block knocked out, with 95 %
    intervals. Below, accuracy over the share of channels replaced and kept, by ranking, of some layers, and the areas under
    these curves by layer; of random rankings the range of the draws (grey)."""
    blocks = [record for record in ablation if record["kind"] == "block"]
    drawn = list(dict.fromkeys(area["layer"] for area in areas))
    chosen = [drawn[i] for i in dict.fromkeys(np.linspace(0, len(drawn) - 1, min(PANELS, len(drawn))).round().astype(int))]
    heights = ([2.6] if blocks else []) + ([4.6, 2.7] if chosen else [])
    figure = Figure(figsize=(max(8.0, 0.42 * len(blocks), 2.5 * len(chosen) + 0.8), 0.8 + sum(heights)), layout="constrained")
    parts = iter(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if blocks:
        _blocks(next(parts), blocks)
    if chosen:
        _curves(next(parts), ablation, chosen)
        _areas(next(parts), areas, drawn)
    one = ablation[0]
    figure.suptitle(
        f"What replacing by the mean costs, on {one['num_samples']} held-out images\n"
        f"(intact: accuracy {one['intact_accuracy']:.1%}, cross-entropy {one['intact_cross_entropy'] * BITS:.3f} bits)",
        fontsize=11,
    )
    return figure


def correlations(rankings: Sequence[Record]) -> Figure:
    """A panel a loss: Spearman's correlation of each score with it (filled) and what is left beyond depth (open), with 95 %
    intervals of independent layers. Trivial scores in grey."""
    kinds = list(dict.fromkeys(record["loss"] for record in rankings))
    scores = list(dict.fromkeys((r["score"], r["representation"]) for r in sorted(rankings, key=lambda r: r["trivial"])))
    figure = Figure(figsize=(4.1 * len(kinds) + 3.2, max(3.4, 0.36 * len(scores) + 2)), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, kind in zip(axes, kinds, strict=True):
        for record in (record for record in rankings if record["loss"] == kind):
            place = scores.index((record["score"], record["representation"]))
            colour = "0.6" if record["trivial"] else COLOURS.get(record["representation"], "#009E73")
            for name, shift, face in (("correlation", -0.14, colour), ("partial", 0.14, "white")):
                value, low, high = (record[f"{name}{end}"] for end in ("", "_lower", "_upper"))
                if value is None:
                    continue
                ax.hlines(place + shift, low, high, color=colour, lw=1.5)
                ax.plot(value, place + shift, "o", ms=5, mfc=face, mec=colour, mew=1.2)
            if record["correlation"] is None:
                ax.text(0.03, place, record["verdict"], va="center", fontsize=7, color="0.4")
            elif record["partial"] is None:
                ax.text(0.03, place + 0.14, "no more than depth: ranked alike", va="center", fontsize=7, color="0.4")
        count = max(record["num_layers"] for record in rankings if record["loss"] == kind)
        ax.axvline(0, color="0.3", lw=0.8)
        ax.grid(axis="x", color="0.92", lw=0.6)
        ax.set_title(f"with the loss of\n{LOSSES.get(kind, kind)} ({count} layers)", fontsize=9)
        ax.set_xlabel("rank correlation")
    axes[0].set_xlim(-1.03, 1.03)
    axes[0].set_yticks(range(len(scores)), [title(*score) for score in scores])
    axes[0].set_ylim(len(scores) - 0.5, -0.5)
    for name, face in (("Spearman", "0.3"), ("beyond depth", "white")):
        axes[0].plot([], [], "o", ms=5, mfc=face, mec="0.3", mew=1.2, label=name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(
        "Do scores of the layers predict what the network loses without them?\n"
        "(95 % intervals as if layers were independent, which those of one network are not)",
        fontsize=11,
    )
    return figure


def _blocks(part: SubFigure, blocks: Sequence[Record]) -> None:
    names, at = [record["layer"] for record in blocks], np.arange(len(blocks))
    axes = part.subplots(1, 2)
    columns = (("loss", bits, "increase of cross-entropy  [bits]"), ("accuracy_drop", numbers, "drop of accuracy"))
    for ax, (name, column, label) in zip(axes, columns, strict=True):
        ax.bar(at, column(blocks, name), 0.65, color="#0072B2", alpha=0.75)
        ax.vlines(at, column(blocks, f"{name}_lower"), column(blocks, f"{name}_upper"), color="0.2", lw=1)
        ax.axhline(0, color="0.3", lw=0.8)
        ax.set_xticks(at, names, rotation=60, ha="right", fontsize=7)
        ax.set_title(f"residual branch replaced: {label}", fontsize=9)


def _curves(part: SubFigure, ablation: Sequence[Record], layers: Sequence[str]) -> None:
    axes = part.subplots(2, len(layers), sharex=True, sharey=True, squeeze=False)
    for column, layer in zip(axes.T, layers, strict=True):
        for ax, (curve, label) in zip(column, CURVES.items(), strict=True):
            records = [r for r in ablation if (r["kind"], r["layer"], r["curve"]) == ("channels", layer, curve)]
            for ranking in _rankings(records):
                _curve(ax, [record for record in records if record["ranking"] == ranking], ranking)
            ax.set_xlabel(f"share {label}", fontsize=8)
            ax.set_ylim(0, 1.02)
        num_channels = max(record["num_channels"] for record in ablation if record["layer"] == layer and record["share"] == 1)
        column[0].set_title(f"{layer} ({num_channels} channels)", fontsize=9)
    for ax, curve in zip(axes[:, 0], CURVES, strict=True):
        ax.set_ylabel(f"accuracy by {curve}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    part.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _curve(ax: Axes, records: Sequence[Record], ranking: str) -> None:
    """A ranking's accuracy over the share, the mean over draws; of several draws also their range."""
    name, colour, style = RANKINGS.get(ranking, (ranking, None, "-"))
    shares = sorted({record["share"] for record in records})
    values = [numbers([record for record in records if record["share"] == share], "accuracy") for share in shares]
    if len(values[0]) > 1:
        ax.fill_between(shares, [v.min() for v in values], [v.max() for v in values], color=colour, alpha=0.35, lw=0)
    ax.plot(shares, [v.mean() for v in values], "o", ls=style, ms=3, lw=1.3, color=colour, label=name)


def _areas(part: SubFigure, areas: Sequence[Record], layers: Sequence[str]) -> None:
    axes = part.subplots(1, 2, sharey=True)
    for ax, curve in zip(axes, CURVES, strict=True):
        records = [record for record in areas if record["curve"] == curve]
        rankings = _rankings(records)
        for place, ranking in enumerate(rankings):
            name, colour, _ = RANKINGS.get(ranking, (ranking, None, None))
            own = [record for record in records if record["ranking"] == ranking]
            at = np.array([layers.index(record["layer"]) for record in own])
            low, high = numbers(own, "accuracy_area_lower"), numbers(own, "accuracy_area_upper")
            if ranking == "random":
                ax.bar(at, high - low, 0.8, bottom=low, color=colour, alpha=0.5)
                ax.hlines(numbers(own, "accuracy_area"), at - 0.4, at + 0.4, color=colour, lw=1.5)
            else:
                beside = 0.12 * (place - len(rankings) / 2)
                ax.plot(at + beside, numbers(own, "accuracy_area"), "o", ms=5, color=colour, mec="white", mew=0.6, label=name)
        ax.set_xticks(range(len(layers)), layers, rotation=30, ha="right", fontsize=8)
        ax.set_xlim(-0.6, len(layers) - 0.4)
        better = "low" if curve == "deletion" else "high"
        ax.set_title(f"area under {curve} ({better}: a good ranking)", fontsize=9)
    axes[0].set_ylabel("area under accuracy")


def _rankings(records: Sequence[Record]) -> list[str]:
    """Those that the records have, random first, so that it lies below the others."""
    return sorted({record["ranking"] for record in records}, key=lambda name: (name != "random", name))
