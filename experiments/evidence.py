"""What a run adds to its planes: what the network loses without a block or some channels, and whether a score of the layers
predicts it; checks of information-bottleneck predictions; maps of conductance for single images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

import ipjax
from experiments.config import Config
from experiments.console import progress, tracking
from experiments.features import RULE, Features
from experiments.measuring import Kept, Records
from experiments.selection import Selection
from ipjax import ablation, ranking
from ipjax.attribution import Attribution, attribute, typical
from ipjax.data.pipeline import batches
from ipjax.scores import channel_scores

Before = Mapping[str, str | None]
KINDS = ("most typical", "least typical")
ABLATED = 500  # images at most whose losses are measured, and as many for means and rankings
RANKED = 4  # layers whose channels are ranked
ATTRIBUTED = 10  # classes


def ablated(net: ipjax.Network, data: Selection, config: Config) -> bool:
    """Whether a run knocks out blocks and channels: where asked to, and by itself for digits."""
    fits = net.logits_shape(np.zeros((1, *data.images.shape), np.float32)).shape[1] == data.images.num_classes
    if config.ablation and not fits:
        raise ValueError("ablation: expected a network with as many classes as the data has, or there is no loss to measure")
    return (config.data == "digits" and fits) if config.ablation is None else config.ablation


def measure_ablation(net: ipjax.Network, data: Selection, features: Features, config: Config, kept: Kept) -> Records:
    """Records of `ipjax.ablation`: of every residual block, of the channels of some layers by every ranking, and of a random
    half of those of every other layer. Means and rankings are made of one half of the images, losses measured on the other."""

    def measured() -> Records:
        layers = [name for name in features.names if name != "input"]
        if not layers:
            return ()
        half = min(len(features.positions) // 2, ABLATED)
        index = data.index[features.positions[: 2 * half]]
        x, labels = _images(net, data, index, config.num_workers), np.asarray(data.images.labels)[index]
        ranked = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, RANKED).round().astype(int))]
        branches = {block: end for block, end in ablation.residual_branches(net, x[:1]).items() if block in layers}
        means = ablation.means(net, x[:half], [*layers, *branches.values()])
        of_channels = [features.layers("channels", name) for name in ("activation", "predicted")]
        activation, conductance = ({layer: rows[layer][:half] for layer in ranked} for rows in of_channels)
        scores = channel_scores(net, x[:half], labels[:half], ranked, activation=activation, conductance=conductance)
        held_out = (net, x[half:], labels[half:], means)
        others = [layer for layer in layers if layer not in ranked]
        with progress("ablations", len(branches) + 10 * len(ranked) + len(others)) as advance:
            once, often = tracking(advance, 1), tracking(advance, 10)
            records = ablation.knock_out_blocks(*held_out, branches, track=once)
            records += ablation.channel_curves(*held_out, ranked, scores, seed=config.seed, track=often)
            if others:
                records += ablation.channel_curves(*held_out, others, {}, shares=(0.5,), seed=config.seed, track=once)
            return records

    return kept("ablation", measured)


def rank_layers(plane: ipjax.InformationPlane, features: Features, losses: Records, before: Before) -> Records:
    """How well scores of the layers predict the losses, see `ipjax.ranking`. Reads features: for all processes to call."""
    activation, predicted, contrast = (features.layers("channels", name) for name in ("activation", "predicted", "contrast"))
    scores = ranking.layer_scores(
        plane.records, activation=activation, conductance={"predicted": predicted, "contrast": contrast}, before=before
    )
    depth = {layer: depth for depth, layer in enumerate(features.names)}
    return ranking.rank_correlations(ranking.layer_losses(losses), scores, depth)


def attribute_typical(net: ipjax.Network, data: Selection, features: Features, config: Config) -> Attribution:
    """Maps of the most and of the least typical image of some classes, evenly spaced."""
    last = features.layers("features", "activation")[features.names[-1]]
    index, labels = data.index[features.positions], data.labels[features.positions]
    every = np.unique(labels)
    classes = every[np.linspace(0, len(every) - 1, min(ATTRIBUTED, len(every))).round().astype(int)]
    pairs = [typical(last, labels, kind=kind, classes=classes.tolist()) for kind in KINDS]
    return attribute(
        net,
        data.images,
        np.asarray(data.images.labels),
        index[np.stack(pairs, axis=1).ravel()],
        kinds=KINDS * len(classes),
        layers=features.names,
        quadrature=RULE(config.steps),
    )


def _images(net: ipjax.Network, data: Selection, index: np.ndarray, num_workers: int) -> np.ndarray:
    """Images in the precision of the network's parameters."""
    with closing(batches(data.images, index, len(index), num_workers=num_workers)) as images:
        batch = next(images)
    if batch.unreadable:
        raise ValueError(f"data: {'; '.join(batch.unreadable.values())}; it could be read before: start again")
    return batch.images.astype(jnp.result_type(*jax.tree.leaves(net.params)))
