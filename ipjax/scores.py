"""Scores of channels by which they may be ranked: how much each should matter to the network, from reference images.

Conductance (see `ipjax.conductance`), activation, gradient x activation (Molchanov, Tyree, Karras, Aila and Kautz 2017,
arXiv:1611.06440; there for pruning), and what each channel alone tells about the label (see `ipjax.channels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpy.typing import ArrayLike

from ipjax.ablation import ByLayer, Images, blocks
from ipjax.channels import label_information
from ipjax.conductance import layer_conductance
from ipjax.readout import channel_mean, channel_sum
from ipjax.taps import Network


def channel_scores(
    net: Network,
    x: Images,
    labels: ArrayLike,
    layers: Sequence[str],
    *,
    conductance: ByLayer | None = None,
    activation: ByLayer | None = None,
    images_at_once: int = 64,
) -> dict[str, dict[str, Float[np.ndarray, " channels"]]]:
    """Ranking -> layer -> a score `[channels]` of how much each channel should matter, from reference images.

    - `conductance`: mean over images of |conductance of the channel to the predicted class|.
    - `activation`: mean |mean over space of the activation|.
    - `gradient_x_activation`: mean |sum over space of gradient x activation|, of the predicted class's logit at the image.
    - `information`: what the channel's mean activation alone tells about the label, see `ipjax.channels`.

    **Arguments:**

    - `conductance`, `activation`: layer -> `[n, channels]` of the same images (sums and means over space), if known already.
    """
    names = net.layers(x[:1], layers)
    parts: dict[str, list[dict[str, np.ndarray]]] = {"gradient": [], "activation": [], "conductance": []}
    for (block,), count in blocks(x, images_at_once=images_at_once):
        found: dict[str, Any] = {}
        found["gradient"], found["activation"] = _gradient_x_activation(net, block, names)
        if conductance is None:
            found["conductance"] = layer_conductance(net, block, layers=names, readout=channel_sum)
        for kind, values in jax.device_get(found).items():
            parts[kind].append({name: value[:count] for name, value in values.items()})
    own = {
        kind: {name: np.concatenate([p[name] for p in all_blocks]) for name in names}
        for kind, all_blocks in parts.items()
        if all_blocks
    }
    given = {"activation": activation, "conductance": conductance}
    for kind, values in given.items():
        own |= {} if values is None else {kind: {name: _rows(kind, name, values, len(x)) for name in names}}
    size = {kind: {name: np.mean(np.abs(values), axis=0) for name, values in layers.items()} for kind, layers in own.items()}
    return {
        "conductance": size["conductance"],
        "activation": size["activation"],
        "gradient_x_activation": size["gradient"],
        "information": {name: np.asarray(label_information(own["activation"][name], labels)) for name in names},
    }


@partial(jax.jit, static_argnames="names")
def _gradient_x_activation(net: Network, x: Array, names: tuple[str, ...]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Layer -> `[n, channels]`: gradient of the predicted class's logit x activation, summed; mean activation."""

    def predicted(offsets: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        values = {}

        def tap(name: str, value: Array) -> Array:
            if name not in names:
                return value
            values[name] = value
            return value + offsets[name]

        return jnp.sum(jnp.max(net.run(x, tap), axis=1)), values

    shapes = net.layer_shapes(x)
    zeros = {name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in names}
    gradients, values = jax.grad(predicted, has_aux=True)(zeros)
    products = {name: gradients[name].astype(jnp.float32) * values[name].astype(jnp.float32) for name in names}
    of_channels = {name: channel_sum(product) for name, product in products.items()}
    return of_channels, {name: channel_mean(values[name].astype(jnp.float32)) for name in names}


def _rows(kind: str, name: str, values: ByLayer, n: int) -> np.ndarray:
    found = np.asarray(values[name])
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"{kind} of layer {name!r}: expected [{n}, channels], a row an image of x, got {list(found.shape)}")
    return found
