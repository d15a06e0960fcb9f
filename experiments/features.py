"""What represents the layers of a network on a set of images: activations, and conductances to three targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

import ipjax
from experiments.console import progress
from ipjax.readout import CountSketch, Readout, channel_mean, channel_sum

ByLayer = dict[str, np.ndarray]
TARGETS = ("predicted", "contrast", "random")


@dataclass(frozen=True)
class Features:
    """Of `n` images, by representation and layer: the activation, and the conductances to the predicted class, to a fixed
    contrast of the logits, and to a random class for each image (the predicted classes, shuffled over the images).

    **Attributes:**

    - `layers`: `[n, features]`, what the readout makes of a layer.
    - `channels`: `[n, channels]`, mean activations and summed conductances.
    - `completeness_gaps`: mean |gap| of a conductance over the mean |change of its target|.
    - `predicted`: `[n]` classes.
    """

    layers: dict[str, ByLayer]
    channels: dict[str, ByLayer]
    completeness_gaps: dict[str, dict[str, float]]
    predicted: Int[np.ndarray, " n"]


def features(
    net: ipjax.Network,
    images: Float[np.ndarray, "n h w c"],
    names: tuple[str, ...],
    *,
    readout: str,
    num_steps: int,
    batch_size: int,
    seed: int,
) -> Features:
    """Evaluates the named layers with a `"sketch"` or `"channel"` readout; see `experiments.runner.Config`."""
    sketch = CountSketch(512, seed)
    of_activation, of_conductance = (sketch, sketch) if readout == "sketch" else (channel_mean, channel_sum)
    logits, layers, channels = _activations(net, images, names, of_activation, batch_size)
    predicted = np.argmax(logits, axis=1)
    shuffled = np.random.default_rng(seed).permutation(predicted)
    classes = jax.nn.one_hot(np.stack([predicted, shuffled]), logits.shape[1])
    contrast = jnp.broadcast_to(ipjax.contrast_weights(logits.shape[1], seed), logits.shape)
    targets = jnp.stack([classes[0], contrast, classes[1]])  # in the order of TARGETS

    quadrature = ipjax.quadrature.trapezoid(num_steps)
    conductances, of_channels, gaps = _conductances(net, images, names, targets, quadrature, of_conductance, batch_size)
    by_target = {target: i for i, target in enumerate(TARGETS)}
    return Features(
        {"activation": layers} | {t: {name: conductances[name][i] for name in names} for t, i in by_target.items()},
        {"activation": channels} | {t: {name: of_channels[name][i] for name in names} for t, i in by_target.items()},
        {t: {name: _relative(gaps[name][i], of_channels[name][i]) for name in names} for t, i in by_target.items()},
        predicted,
    )


def _activations(
    net: ipjax.Network, images: np.ndarray, names: tuple[str, ...], readout: Readout, batch_size: int
) -> tuple[np.ndarray, ByLayer, ByLayer]:
    @jax.jit
    def forward(net: ipjax.Network, x: Array) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        logits, values = net.activations(x, names)
        return logits, {k: readout(v) for k, v in values.items()}, {k: channel_mean(v) for k, v in values.items()}

    parts = []
    with progress("activations", len(images)) as advance:
        for index in _batches(len(images), batch_size):
            parts.append(jax.device_get(forward(net, jnp.asarray(images[index]))))
            advance(len(index))
    logits, layers, channels = jax.tree.map(lambda *values: np.concatenate(values)[: len(images)], *parts)
    return logits, {name: layers[name] for name in names}, {name: channels[name] for name in names}


def _conductances(
    net: ipjax.Network,
    images: np.ndarray,
    names: tuple[str, ...],
    targets: Float[Array, "targets n classes"],
    quadrature: ipjax.quadrature.Quadrature,
    readout: Readout,
    batch_size: int,
) -> Any:
    """Layer -> `[targets, n, features]`, `[targets, n, channels]` and completeness gaps `[targets, n]`."""
    num_channels = {name: shape.shape[-1] for name, shape in net.layer_shapes(images[:1]).items()}

    def toward(x: Array, target: Array) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        both = ipjax.layer_conductance(
            net, x, layers=names, target=target, quadrature=quadrature, readout=_WithChannels(readout)
        )
        channels = {name: value[:, -num_channels[name] :] for name, value in both.items()}
        features = {name: value[:, : -num_channels[name]] for name, value in both.items()}
        return features, channels, ipjax.completeness_gap(net, x, channels, target=target)

    parts = []
    with progress("conductances", len(images)) as advance:
        for index in _batches(len(images), batch_size):
            # Mapped, the targets share the passes forward.
            values = jax.vmap(toward, in_axes=(None, 0))(jnp.asarray(images[index]), targets[:, index])
            parts.append(jax.device_get(values))
            advance(len(index))
    return jax.tree.map(lambda *values: np.concatenate(values, axis=1)[:, : len(images)], *parts)


@dataclass(frozen=True)
class _WithChannels:
    """A readout's features and, after them, one a channel, whose sum the completeness gap needs."""

    readout: Readout

    def __call__(self, units: Array) -> Array:
        return jnp.concatenate([self.readout(units), channel_sum(units)], axis=1)


def _batches(n: int, size: int) -> Iterator[np.ndarray]:
    """Indices of n images in batches of one size, so that one shape is compiled; the last one starts over from the first."""
    size = min(size, n)
    for start in range(0, n, size):
        yield np.arange(start, start + size) % n


def _relative(gap: Float[np.ndarray, " n"], channels: Float[np.ndarray, "n channels"]) -> float:
    """Mean absolute gap over the mean absolute change of the target, which is the conductances' sum less the gap."""
    return float(np.mean(np.abs(gap)) / np.mean(np.abs(channels.sum(axis=1) - gap)))
