"""Figures of planes through training, from records only: the layers' way over the plane, and I(X; C) over the epochs. In bits.

After the figures of Shwartz-Ziv and Tishby 2017 (arXiv:1703.00810) and Saxe et al. 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ipjax.files import Record
from ipjax.names import BITS, TITLES
from ipjax.plotting.style import STYLE, depth_colours
from ipjax.trajectories import by_seed, compression

_EPOCHS = colormaps["plasma_r"]
_UNTRAINED = 0.5  # where epoch 0 stands on a logarithmic axis of epochs


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Both figures by each estimator, `plane_<estimator>` and `phases_<estimator>`, from records as of a
    plane with `network`, `seed`, `epoch`, `estimator`, `train_accuracy` and `test_accuracy`.

    **Raises:** `ValueError` for no records, or where seeds were not measured at the same epochs.
    """
    if not records:
        raise ValueError("records: expected at least one, got none")
    found = {}
    with rc_context(rc=STYLE):  # pyright: ignore[reportArgumentType]
        for estimator in dict.fromkeys(record["estimator"] for record in records):
            chosen = [record for record in records if record["estimator"] == estimator]
            found[f"plane_{estimator}"] = plane(chosen)
            found[f"phases_{estimator}"] = phases(chosen)
    return found


def plane(records: Sequence[Record]) -> Figure:
    """I(C; Y) over I(X; C) by one estimator, a row a representation and a column a network: the layers after an epoch are
    joined and coloured by it, means over seeds; hollow where most seeds' input information is saturated. Grey: label
    information with shuffled labels. Dashed: the ceilings."""
    networks, representations = _names(records, "network"), _names(records, "representation")
    figure = Figure(figsize=(3.5 * len(networks) + 1, 2.9 * len(representations) + 0.4), layout="constrained")
    axes = figure.subplots(len(representations), len(networks), sharex=True, sharey=True, squeeze=False)
    last = max(record["epoch"] for record in records)
    norm = LogNorm(_UNTRAINED, max(last, 1))
    for row, representation in zip(axes, representations, strict=True):
        for ax, network in zip(row, networks, strict=True):
            layers = _layers(records, network, representation)
            epochs = by_seed(layers[0][1], "input_information")[0]
            x, y, null, saturated = (
                np.array([by_seed(rows, key)[1].mean(axis=0) for _, rows in layers])
                for key in ("input_information", "label_information", "label_null", "input_saturated")
            )
            x, y, null = x * BITS, y * BITS, null * BITS
            ax.plot(x.ravel(), null.ravel(), ".", color="0.8", ms=2.5, zorder=1)
            for i, epoch in enumerate(epochs):
                colour = _EPOCHS(norm(max(epoch, _UNTRAINED)))
                ax.plot(x[:, i], y[:, i], color=colour, lw=0.6, alpha=0.6, zorder=2)
                face = ["white" if share > 0.5 else colour for share in saturated[:, i]]
                ax.scatter(x[:, i], y[:, i], s=16, c=face, edgecolors=[colour], linewidths=0.9, zorder=3)
            outline = [withStroke(linewidth=2, foreground="w")]
            for at, side in ((0, "left"), (len(layers) - 1, "right")):  # at the end of training
                style = {"ha": side, "fontsize": 7, "zorder": 4, "path_effects": outline}
                shift = (4 if side == "left" else -4, -9)
                ax.annotate(layers[at][0], (x[at, -1], y[at, -1]), shift, textcoords="offset points", **style)
            first = layers[0][1][0]
            ax.axhline(first["label_ceiling"] * BITS, color="0.5", lw=0.8, ls="--")
            ax.axvline(first["input_ceiling"] * BITS, color="0.5", lw=0.8, ls="--")
            ax.set_title(f"{network}: {TITLES.get(representation, representation)}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("I(X; C)  [bits]")
    for ax in axes[:, 0]:
        ax.set_ylabel("I(C; Y)  [bits]")
    bar = figure.colorbar(ScalarMappable(norm, _EPOCHS), ax=axes, pad=0.01, aspect=40, label="epoch")
    _name_epochs(bar.ax.yaxis, last)
    first = records[0]
    figure.suptitle(
        f"Information planes through training ({first['input_estimator']}, {first['num_samples']} images)", fontsize=11
    )
    return figure


def phases(records: Sequence[Record]) -> Figure:
    """I(X; C) over the epochs by one estimator, a row a representation and a column a network; a line a layer coloured by
    depth, with the spread of the seeds (one standard deviation) and a dot at its largest value. Blue: the last layer's
    fitting phase up to the seeds' median epoch of the largest value; red: what follows, where it compresses. Below, the
    accuracies."""
    networks, representations = _names(records, "network"), _names(records, "representation")
    verdicts = {(r["network"], r["representation"], r["layer"]): r for r in compression(records)}
    ratios = [1.0] * len(representations) + [0.6]
    figure = Figure(figsize=(3.7 * len(networks) + 0.6, 2.4 * sum(ratios) + 0.5), layout="constrained")
    axes = figure.subplots(len(ratios), len(networks), sharex="col", sharey="row", squeeze=False, height_ratios=ratios)
    for row, representation in zip(axes[:-1], representations, strict=True):
        for ax, network in zip(row, networks, strict=True):
            layers = _layers(records, network, representation)
            for (layer, rows), colour in zip(layers, depth_colours(len(layers)), strict=True):
                at, mean = _drawn(ax, rows, "input_information", BITS, color=colour, label=layer, lw=1.3)
                ax.plot(at[np.argmax(mean)], mean.max(), "o", ms=4, mfc=colour, mec="white", mew=0.6, zorder=4)
            ax.axhline(layers[0][1][0]["input_ceiling"] * BITS, color="0.5", lw=0.8, ls="--")
            _mark_phases(ax, verdicts[network, representation, layers[-1][0]])
            ax.set_title(f"{network}: {TITLES.get(representation, representation)}", fontsize=9)
    for ax, network in zip(axes[-1], networks, strict=True):
        _, rows = _layers(records, network, representations[0])[0]
        for half, style in (("train", "-"), ("test", "--")):
            _drawn(ax, rows, f"{half}_accuracy", 1, color="0.2", lw=1.1, ls=style)
        ax.set_ylim(0, 1.02)
        ax.set_xscale("log")
        _name_epochs(ax.xaxis, max(record["epoch"] for record in rows))
        ax.set_xlabel("epoch")
        names = axes[0, networks.index(network)].get_legend_handles_labels()
        ax.legend(*names, fontsize=6, loc="upper left", ncols=2, handlelength=1, columnspacing=0.8, labelspacing=0.2)
    for ax in axes[:-1, 0]:
        ax.set_ylim(0, None)
        ax.set_ylabel("I(X; C)  [bits]")
    axes[-1, 0].set_ylabel("accuracy\n(dashed: test)")
    first = records[0]
    figure.suptitle(f"What layers keep of their input ({first['input_estimator']}, {first['num_samples']} images)", fontsize=11)
    return figure


def _mark_phases(ax: Axes, found: Record) -> None:
    """Shades the last layer's phases and writes its verdict."""
    peak = max(found["largest_epoch"], _UNTRAINED)
    if found["verdict"] == "compresses":
        ax.axvspan(_UNTRAINED, peak, color="#0072B2", alpha=0.07, lw=0)
        ax.axvspan(peak, ax.dataLim.x1, color="#D55E00", alpha=0.07, lw=0)
    elif found["verdict"] == "does not compress":
        ax.axvspan(_UNTRAINED, ax.dataLim.x1, color="#0072B2", alpha=0.07, lw=0)
    fall = "" if found["verdict"] == "withheld" else f" (falls by {found['drop'] * BITS:.2f} bits)"
    text = f"last layer {found['verdict']}{fall}"
    style = {"fontsize": 7, "ha": "right", "va": "bottom", "path_effects": [withStroke(linewidth=2, foreground="w")]}
    ax.text(0.99, 0.02, text, transform=ax.transAxes, **style)


def _drawn(ax: Axes, rows: Sequence[Record], key: str, scale: float, **style) -> tuple[np.ndarray, np.ndarray]:
    """Draws the seeds' mean and standard deviation over the epochs; returns where epochs stand, and the mean."""
    epochs, values = by_seed(rows, key)
    at, values = np.maximum(epochs, _UNTRAINED), scale * values
    mean, spread = values.mean(axis=0), values.std(axis=0)
    ax.plot(at, mean, **style)
    ax.fill_between(at, mean - spread, mean + spread, color=style["color"], alpha=0.15, lw=0)
    return at, mean


def _name_epochs(axis, last: int) -> None:
    """Names powers of ten, and 0 where it stands."""
    ticks = [_UNTRAINED, *(10**power for power in range(int(np.log10(max(last, 1))) + 1))]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda epoch, _: "0" if epoch < 1 else f"{epoch:.0f}"))


def _layers(records: Sequence[Record], network: str, representation: str) -> list[tuple[str, list[Record]]]:
    """Layers in forward order with their records."""
    chosen = [r for r in records if (r["network"], r["representation"]) == (network, representation)]
    names = dict.fromkeys(record["layer"] for record in sorted(chosen, key=lambda record: record["depth"]))
    return [(name, [record for record in chosen if record["layer"] == name]) for name in names]


def _names(records: Sequence[Record], key: str) -> list[str]:
    return list(dict.fromkeys(record[key] for record in records))
