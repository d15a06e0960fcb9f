"""What represents the layers of a network on a set of images: activations, and conductances to three targets.

They are computed shard by shard: a shard's images are read, evaluated on all devices of the host and reduced there, and
what comes back goes into the store, from which the layers are read one at a time when they are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Float32, Int

import ipjax
from experiments.console import warn
from ipjax import runtime
from ipjax.readout import CountSketch, Readout, channel_mean, channel_sum
from ipjax.store import Shard, Store

TARGETS = ("predicted", "contrast", "random")
SKETCH = 512  # features
RULE = ipjax.quadrature.rescale
HELD = 2**26  # bytes of features that are not read again
Arrays = dict[str, np.ndarray]
ByLayer = dict[str, Array]


@dataclass
class Extraction:
    """Features of a shard of images, by representation and layer: the activation, and the conductances to the predicted class,
    to a fixed contrast of the logits, and to a random class for each image (the shard's predicted classes, shuffled).

    **Arguments:**

    - `readout`: `"sketch"` or `"channel"`, see `experiments.config.Config`.
    - `images_at_once`, `nodes_at_once`: evaluated together by a device; halved, images first, where memory does not suffice.
    """

    net: ipjax.Network
    names: tuple[str, ...]
    readout: str
    num_steps: int
    seed: int
    images_at_once: int
    nodes_at_once: int

    def __post_init__(self):
        self.mesh = runtime.local_mesh()
        self.net = runtime.replicate(self.net, self.mesh)
        sketch = CountSketch(SKETCH, self.seed)
        of_activation, of_conductance = (sketch, sketch) if self.readout == "sketch" else (channel_mean, channel_sum)
        self.quadrature = RULE(self.num_steps)
        self._forward = jax.jit(self._on_devices(partial(_activations, names=self.names, readout=of_activation), (P("data"),)))
        self._conduct = self._conducting(of_conductance)

    def _conducting(self, readout: Readout) -> Callable[..., Any]:
        """Conductances with as many nodes at once as there are now."""

        def conduct(net: ipjax.Network, x: Array, targets: Array, nodes_at_once: int) -> Any:
            function = partial(
                _conductances, names=self.names, quadrature=self.quadrature, readout=readout, nodes_at_once=nodes_at_once
            )
            return self._on_devices(function, (P("data"), P(None, "data")))(net, x, targets)

        compiled = jax.jit(conduct, static_argnums=3)
        return lambda net, x, targets: compiled(net, x, targets, self.nodes_at_once)

    def __call__(
        self,
        images: Float32[np.ndarray, "n h w c"],
        mask: Bool[np.ndarray, " n"],
        start: int,
        advance: Callable[[float], None] = lambda images: None,
    ) -> Arrays:
        """Of the images that are marked in a shard that starts at position `start`: a row each.

        `position`, `predicted` [rows]; `features/<representation>/<layer>` [rows, features], what the readout makes of the
        layer; `channels/<representation>/<layer>` [rows, channels], mean activations and summed conductances, not of the random
        class; `gap/<target>/<layer>` and `change/<target>` [rows], the completeness gap and the change of the target from
        baseline to image.
        """
        logits, features, channels = self._in_blocks(self._forward, images)
        predicted = np.where(mask, np.argmax(logits, axis=1), 0)
        targets = _targets(predicted, mask, logits.shape[1], [self.seed, start])
        conductances, of_channels, gaps, changes = self._in_blocks(self._conduct, images, targets, advance)
        arrays = {"position": (start + np.arange(len(images))).astype(np.int32), "predicted": predicted.astype(np.int32)}
        for name in self.names:
            arrays[f"features/activation/{name}"], arrays[f"channels/activation/{name}"] = features[name], channels[name]
            for i, target in enumerate(TARGETS):
                arrays[f"features/{target}/{name}"] = conductances[name][:, i]
                arrays[f"channels/{target}/{name}"] = of_channels[name][:, i]
                arrays[f"gap/{target}/{name}"] = gaps[name][:, i]
        arrays |= {f"change/{target}": changes[:, i] for i, target in enumerate(TARGETS)}
        marked = {name: values[mask] for name, values in arrays.items() if not name.startswith("channels/random/")}
        bad = [name for name, values in marked.items() if not np.isfinite(values).all()]
        if bad:
            raise ValueError(
                f"{', '.join(bad[:3])}: not finite on some of the images from {start} on; check the weights, or use a higher "
                "precision (dtype float32)"
            )
        return marked

    def _on_devices(self, function: Callable[..., Any], specs: tuple[P, ...]) -> Callable[..., Any]:
        """The function with the network whole and the images spread over the host's devices."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=(P(), *specs), out_specs=P("data"))

    def _in_blocks(
        self,
        function: Callable[..., Any],
        images: np.ndarray,
        targets: np.ndarray | None = None,
        advance: Callable[[float], None] = lambda images: None,
    ) -> Any:
        """The function of all images, so many at once, in blocks of one size: the last one starts over from the first."""
        parts, first = [], 0
        while first < len(images):
            size = self.images_at_once * self.mesh.size
            index = np.arange(first, first + size) % len(images)
            block = [self._spread(images[index], P("data"))]
            if targets is not None:
                block.append(self._spread(targets[:, index], P(None, "data")))
            try:
                values = jax.block_until_ready(function(self.net, *block))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.images_at_once == self.nodes_at_once == 1:
                    raise
                if self.images_at_once > 1:
                    self.images_at_once //= 2
                else:
                    self.nodes_at_once //= 2
                warn(f"out of memory; going on with {self.images_at_once} images x {self.nodes_at_once} nodes on a device")
                continue
            count = min(size, len(images) - first)
            parts.append(jax.tree.map(lambda value, count=count: value[:count], jax.device_get(values)))
            first += count
            advance(count)
        return jax.tree.map(lambda *values: np.concatenate(values), *parts)

    def _spread(self, values: np.ndarray, spec: P) -> Array:
        return jax.device_put(values, NamedSharding(self.mesh, spec))


def _activations(net: ipjax.Network, x: Array, *, names: tuple[str, ...], readout: Readout) -> tuple[Array, ByLayer, ByLayer]:
    logits, values = net.activations(_as(net, x), names)
    values = {name: value.astype(jnp.float32) for name, value in values.items()}
    return logits.astype(jnp.float32), _each(readout, values), _each(channel_mean, values)


def _conductances(
    net: ipjax.Network,
    x: Array,
    targets: Float[Array, "targets n classes"],
    *,
    names: tuple[str, ...],
    quadrature: ipjax.quadrature.Quadrature,
    readout: Readout,
    nodes_at_once: int,
) -> tuple[ByLayer, ByLayer, ByLayer, Array]:
    """Layer -> `[n, targets, features]`, `[n, targets, channels]`, completeness gaps `[n, targets]`; changes `[n, targets]`."""
    x = _as(net, x)
    num_channels = {name: shape.shape[-1] for name, shape in net.layer_shapes(x).items()}
    both = ipjax.layer_conductance(
        net,
        x,
        layers=names,
        target=targets,
        quadrature=quadrature,
        readout=_WithChannels(readout),
        nodes_at_once=nodes_at_once,
    )
    channels = {name: value[..., -num_channels[name] :] for name, value in both.items()}
    features = {name: value[..., : -num_channels[name]] for name, value in both.items()}
    gaps = ipjax.completeness_gap(net, x, channels, target=targets)
    gaps = {name: gap.astype(jnp.float32) for name, gap in gaps.items()}
    changes = jnp.sum(channels[names[0]], axis=-1) - gaps[names[0]]
    return jax.tree.map(lambda value: jnp.moveaxis(value, 0, 1), (features, channels, gaps, changes))


@dataclass(frozen=True)
class _WithChannels:
    """A readout's features and, after them, one a channel, whose sum the completeness gap needs."""

    readout: Readout

    def __call__(self, units: Array) -> Array:
        return jnp.concatenate([self.readout(units), channel_sum(units)], axis=1)


def _each(readout: Readout, values: ByLayer) -> ByLayer:
    return {name: readout(value) for name, value in values.items()}


def _as(net: ipjax.Network, x: Array) -> Array:
    """Images in the precision of the network's parameters."""
    return x.astype(jnp.result_type(*jax.tree.leaves(net.params)))


def _targets(
    predicted: Int[np.ndarray, " n"], mask: Bool[np.ndarray, " n"], num_classes: int, seed: Sequence[int]
) -> Float32[np.ndarray, "targets n classes"]:
    """Weights on the logits, in the order of `TARGETS`."""
    shuffled = predicted.copy()
    shuffled[mask] = np.random.default_rng(seed).permutation(predicted[mask])
    classes = np.eye(num_classes, dtype=np.float32)
    contrast = np.asarray(ipjax.contrast_weights(num_classes, seed[0]))
    return np.stack([classes[predicted], np.broadcast_to(contrast, (len(predicted), num_classes)), classes[shuffled]])


@dataclass(frozen=True)
class Features:
    """Features of the readable ones of the selected images, in a store. Reading gathers: all processes must ask for the same.

    **Attributes:**

    - `shards`: those that this process has computed.
    - `order`: sorts the gathered rows of all processes by position.
    - `positions`, `predicted`: `[n]`, of the readable images: where they stand in the selection, and their classes.
    """

    store: Store
    shards: tuple[Shard, ...]
    names: tuple[str, ...]
    order: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    _held: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def layers(self, kind: str, representation: str) -> Layers:
        """`features` or `channels` of a representation."""
        return Layers(self, f"{kind}/{representation}", self.names)

    def read(self, name: str) -> np.ndarray:
        """An array of all images, read-only; the last ones that were read are held, as far as `HELD` bytes go."""
        if name not in self._held:
            values = runtime.gather(self.store.read(self.shards, name))[self.order]
            values.flags.writeable = False
            if values.nbytes + sum(held.nbytes for held in self._held.values()) > HELD:
                self._held.clear()
            self._held[name] = values
        return self._held[name]

    def completeness_gap(self, target: str, layer: str) -> float:
        """Mean |gap| over the mean |change of the target|."""
        gap, change = self.read(f"gap/{target}/{layer}"), self.read(f"change/{target}")
        return float(np.mean(np.abs(gap)) / np.mean(np.abs(change)))


@dataclass(frozen=True)
class Layers(Mapping[str, np.ndarray]):
    """Layer -> `[n, d]`, read from the store (and from all processes) when it is asked for."""

    features: Features
    prefix: str
    names: tuple[str, ...]

    def __getitem__(self, layer: str) -> np.ndarray:
        if layer not in self.names:
            raise KeyError(layer)
        return self.features.read(f"{self.prefix}/{layer}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def open_features(store: Store, shards: Sequence[Shard], names: tuple[str, ...]) -> Features:
    """What all processes have put into their stores."""
    positions = runtime.gather(store.read(shards, "position"))
    predicted = runtime.gather(store.read(shards, "predicted"))
    order = np.argsort(positions, kind="stable")
    return Features(store, tuple(shards), names, order, positions[order], predicted[order])
