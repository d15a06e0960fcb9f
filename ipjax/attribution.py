"""Where in an image each layer's conductance lies: maps of chosen images, in one pass for all layers.

The map of a layer is its conductance summed over channels, at every place; on the layer `input` it is integrated gradients
(Sundararajan, Taly and Yan 2017, arXiv:1703.01365), on the others layer conductance (Dhamdhere, Sundararajan and Yan 2018,
arXiv:1805.12233). A channel's map is its conductance alone. At a layer that cuts every path from input to logits the map sums
to the change of the target from baseline to image, up to quadrature error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, UInt8
from numpy.typing import ArrayLike

from ipjax.conductance import contrast_weights, layer_conductance
from ipjax.files import replacing
from ipjax.quadrature import Quadrature, trapezoid
from ipjax.taps import Layers, Network

KINDS = ("most typical", "least typical", "chosen")
_BLOCK = 4 * 224 * 224  # images x pixels evaluated together
_ARRAYS = ("positions", "images", "labels", "predicted", "change")  # of an Attribution, a row an image
_BY_LAYER = ("sums", "maps", "channels", "channel_maps")

Kind = Literal["most typical", "least typical", "chosen"]


class Images(Protocol):
    """Normalised images by position, as an array `[n, h, w, 3]` or a data set of `ipjax.data` gives them."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Attribution:
    """What `attribute` found for k images: enough to draw them.

    **Attributes:**

    - `positions`: `[k]`, where the images stand in the data.
    - `images`: `[k, h, w, 3]`, to look at: each image's own smallest number black, its largest white, alike for all colours.
    - `labels`, `predicted`: `[k]`, classes.
    - `kinds`: why each image was taken, of `KINDS`.
    - `target`: whose conductance it is: `"predicted"`, `"contrast"` or a class.
    - `change`: `[k]`, F(x) - F(x') of the target from baseline to image.
    - `sums`: layer -> `[k]`, the sum of all its conductance, of every layer in forward order. `sums[layer] - change` is the
        completeness gap.
    - `maps`: layer -> `[k, h, w]`, the conductance summed over channels, of the layers with space (more than one place).
    - `channels`, `channel_maps`: layer -> a channel's number and its conductance `[k, h, w]`, of the same layers but `input`.
    """

    positions: Int[np.ndarray, " k"]
    images: UInt8[np.ndarray, "k h w 3"]
    labels: Int[np.ndarray, " k"]
    predicted: Int[np.ndarray, " k"]
    kinds: tuple[str, ...]
    target: str | int
    change: Float32[np.ndarray, " k"]
    sums: dict[str, Float32[np.ndarray, " k"]]
    maps: dict[str, Float32[np.ndarray, "k h w"]]
    channels: dict[str, int]
    channel_maps: dict[str, Float32[np.ndarray, "k h w"]]

    def __post_init__(self):
        count = len(self.positions)
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.images.dtype != np.uint8:
            raise ValueError(f"images: expected uint8 [k, h, w, 3], got {self.images.dtype} {list(self.images.shape)}")
        _check_kinds(self.kinds, count)
        sized = {name: len(getattr(self, name)) for name in _ARRAYS}
        for name in ("sums", "maps", "channel_maps"):
            sized |= {f"{name} of {layer}": len(value) for layer, value in getattr(self, name).items()}
        for name, size in sized.items():
            if size != count:
                raise ValueError(f"{name}: expected {count} rows as positions has, got {size}")
        for name in ("maps", "channel_maps"):
            for layer, value in getattr(self, name).items():
                if value.ndim != 3 or layer not in self.sums:
                    raise ValueError(f"{name} of {layer}: expected [k, h, w] of a layer in sums, got {list(value.shape)}")
        if "input" not in self.maps or set(self.channels) != set(self.channel_maps):
            raise ValueError("expected a map of the layer input, and a channel's number for each channel's map")

    def completeness_gap(self) -> dict[str, Float32[np.ndarray, " k"]]:
        """Layer -> `[k]`, the sum of its conductance less the change of the target, in the units of the target."""
        return {layer: total - self.change for layer, total in self.sums.items()}

    def save(self, path: str | Path) -> None:
        """Writes the arrays to a `.npz` file; `Attribution.load` gives them back."""
        arrays: dict[str, np.ndarray] = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {"kinds": np.asarray(self.kinds, np.str_), "target": np.asarray(self.target)}
        for name in _BY_LAYER:
            arrays |= {f"{name}/{layer}": np.asarray(value) for layer, value in getattr(self, name).items()}
        with replacing(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """What `save` wrote. Raises `FileNotFoundError`, and `ValueError` for a file that `save` did not write."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            values: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            values |= {"kinds": tuple(arrays["kinds"].tolist()), "target": arrays["target"].item()}
            for name in _BY_LAYER:
                values[name] = {key.split("/", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{name}/")}
            values["channels"] = {layer: int(channel) for layer, channel in values["channels"].items()}
            return cls(**values)
        except FileNotFoundError:
            raise FileNotFoundError(f"attribution: expected a file at {path}, found nothing") from None
        except Exception as error:  # numpy raises many kinds for damaged files
            raise ValueError(f"{path} is no file of an attribution, or is damaged ({error}); make it again") from error


def typical(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    kind: Kind = "most typical",
    per_class: int = 1,
    classes: Sequence[int] | None = None,
) -> Int[np.ndarray, " classes*per_class"]:
    """Positions of the images whose features lie nearest to the mean of their class (most typical), or farthest from it.

    Typicality is the Euclidean distance of an image's features (say, those of the last layer before the logits) to their mean
    over all images of its label. Ties go to the lower position.

    **Returns:** class by class, in the order of `classes`, `per_class` positions each, the most extreme one first.

    **Raises:** `ValueError` for features that are not `[n, d]` and finite, for labels of another number, an unknown kind, and
    classes with fewer than `per_class` images.
    """
    x, y = np.asarray(features, np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != (len(x),):
        raise ValueError(f"features, labels: expected [n, d] and [n], got {list(x.shape)} and {list(y.shape)}")
    if not np.isfinite(x).all():
        raise ValueError("features: expected finite numbers, found NaN or infinity")
    if kind not in ("most typical", "least typical"):
        raise ValueError(f'kind: expected "most typical" or "least typical", got {kind!r}')
    if per_class < 1:
        raise ValueError(f"per_class: expected at least 1, got {per_class}")
    chosen, asked = [], np.unique(y).tolist() if classes is None else list(classes)
    if not asked:
        raise ValueError("labels, classes: expected at least one class, got none")
    for label in asked:
        members = np.flatnonzero(y == label)
        if len(members) < per_class:
            raise ValueError(
                f"class {label}: expected at least {per_class} images, got {len(members)}; ask for fewer per class"
            )
        distance = np.linalg.norm(x[members] - x[members].mean(axis=0), axis=1)
        order = np.argsort(distance if kind == "most typical" else -distance, kind="stable")
        chosen.append(members[order[:per_class]])
    return np.concatenate(chosen)


def attribute(
    net: Network,
    images: Images,
    labels: Int[ArrayLike, " n"],
    positions: Sequence[int] | Int[np.ndarray, " k"],
    *,
    kinds: Kind | Sequence[Kind] = "chosen",
    layers: Layers = None,
    target: Literal["predicted", "contrast"] | int = "predicted",
    baseline: float | Float[np.ndarray, "h w c"] = 0.0,
    quadrature: Quadrature = trapezoid(32),  # noqa: B008 (frozen)
    channels: Mapping[str, int] | None = None,
    images_at_once: int | None = None,
) -> Attribution:
    """Maps of the conductance of every layer for the images at some positions.

    **Arguments:**

    - `images`: an array `[n, h, w, c]` or a data set, normalised as the network expects, of 1 or 3 colours.
    - `labels`: `[n]`, of all images.
    - `kinds`: why the images were taken, for their captions: one word for all, or one an image.
    - `layers`: as in `layer_conductance`; `input` is always added.
    - `target`, `baseline`, `quadrature`: as in `layer_conductance`.
    - `channels`: layer -> the channel whose map is kept. A layer that is not named keeps the channel with the largest mean
        |conductance| over these images, where a channel's conductance is the sum of its units'.
    - `images_at_once`: `None` takes as many as have the pixels of four images of 224 x 224. All conductance is held
        in the host's memory until the channels are chosen: 23 MB an image for a ResNet-50 at 224 x 224, 61 MB for a VGG-16.

    **Raises:** `ValueError` for positions out of range, labels of another number, images of another shape, channels out of
    range or of layers without space, and as `layer_conductance` does; `KeyError` for unknown layers.
    """
    labels, positions = np.asarray(labels), _checked_positions(positions, len(images))
    if labels.shape != (len(images),):
        raise ValueError(f"labels: expected {len(images)}, one an image, got shape {list(labels.shape)}")
    if net.start not in (None, "input"):
        raise ValueError(f"network: expected a path that starts at the image, this one starts at layer {net.start!r}")
    if images_at_once is not None and images_at_once < 1:
        raise ValueError(f"images_at_once: expected at least 1, got {images_at_once}")
    kinds = (kinds,) * len(positions) if isinstance(kinds, str) else tuple(kinds)
    _check_kinds(kinds, len(positions))
    x = _stacked(images, positions)
    start = _checked_baseline(baseline, x.shape[1:])
    _check_target(target, net.logits_shape(x[:1]).shape[-1])
    names = net.layers(x[:1], list({"input", *net.layers(x[:1], layers)}))
    shapes = {name: shape.shape[1:] for name, shape in net.layer_shapes(x[:1]).items() if name in names}
    spatial = [name for name in names if len(shapes[name]) == 3 and math.prod(shapes[name][:2]) > 1]
    inner = [name for name in spatial if name != "input"]
    channels = _checked_channels(channels or {}, {name: shapes[name] for name in inner})

    size = images_at_once or max(1, _BLOCK // (x.shape[1] * x.shape[2]))
    size = -(-len(x) // -(-len(x) // size))  # shared out evenly
    dtype = jnp.result_type(*jax.tree.leaves(net.params))
    predicted, change, units = [], [], []
    for first in range(0, len(x), size):
        # The last block starts over from the first image, to be of the compiled size.
        block = jnp.asarray(x[np.arange(first, first + size) % len(x)], dtype)
        logits, changes, values = jax.device_get(_measured(net, block, jnp.asarray(start, dtype), quadrature, names, target))
        if bad := [name for name in names if not np.isfinite(values[name]).all()]:
            raise ValueError(
                f"the conductance is not finite at {', '.join(bad[:5])}; check the parameters and the scale of images"
            )
        count = min(size, len(x) - first)
        predicted.append(logits[:count].argmax(axis=1))
        change.append(changes[:count].astype(np.float32))
        units.append({name: np.asarray(value[:count], np.float32) for name, value in values.items()})

    def over_blocks(read: Callable[[np.ndarray], np.ndarray], name: str) -> np.ndarray:
        return np.concatenate([read(block[name]) for block in units])

    strongest = {name: int(np.abs(over_blocks(_channel_sums, name)).mean(axis=0).argmax()) for name in inner}
    channels = strongest | channels
    return Attribution(
        positions=positions,
        images=_displayed(x),
        labels=labels[positions],
        predicted=np.concatenate(predicted),
        kinds=kinds,
        target=target,
        change=np.concatenate(change),
        sums={name: over_blocks(lambda values: values.reshape(len(values), -1).sum(axis=1), name) for name in names},
        maps={name: over_blocks(lambda values: values.sum(axis=-1), name) for name in spatial},
        channels=channels,
        channel_maps={name: over_blocks(lambda values, k=k: values[..., k], name) for name, k in channels.items()},
    )


def _channel_sums(values: Float32[np.ndarray, "k h w c"]) -> Float32[np.ndarray, "k c"]:
    return values.sum(axis=(1, 2))


# One compiled function: the eager checks of layer_conductance alone would compile two more for each shape of a layer.
@partial(jax.jit, static_argnames=("names", "target"))
def _measured(
    net: Network, x: Array, baseline: Array, quadrature: Quadrature, names: tuple[str, ...], target: str | int
) -> tuple[Array, Array, dict[str, Array]]:
    """Logits of the images, the change of the target from the baseline, conductance of all units."""
    every = net(jnp.concatenate([x, baseline[None]]))
    logits, num_classes = every[:-1], every.shape[-1]
    if target == "contrast":
        weights = jnp.broadcast_to(contrast_weights(num_classes).astype(logits.dtype), logits.shape)
    elif target == "predicted":
        weights = jax.nn.one_hot(jnp.argmax(logits, axis=1), num_classes, dtype=logits.dtype)
    else:
        weights = jnp.broadcast_to(jax.nn.one_hot(target, num_classes, dtype=logits.dtype), logits.shape)
    conductance = layer_conductance(net, x, layers=names, target=weights, baseline=baseline, quadrature=quadrature)
    return logits, jnp.sum(weights * (logits - every[-1]), axis=1), conductance


def _check_kinds(kinds: Sequence[str], count: int) -> None:
    if len(kinds) != count or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds: expected {count}, one an image, each of {', '.join(KINDS)}, got {', '.join(map(str, kinds))}")


def _check_target(target: Any, num_classes: int) -> None:
    is_class = isinstance(target, int | np.integer) and not isinstance(target, bool) and 0 <= target < num_classes
    if not is_class and not (isinstance(target, str) and target in ("predicted", "contrast")):
        raise ValueError(f'target: expected "predicted", "contrast" or a class from 0 to {num_classes - 1}, got {target!r}')


def _checked_baseline(baseline: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "h w c"]:
    baseline = np.asarray(baseline, np.float32)
    if baseline.shape not in ((), shape) or not np.isfinite(baseline).all():
        raise ValueError(f"baseline: expected a finite number or an image {list(shape)}, got shape {list(baseline.shape)}")
    return np.broadcast_to(baseline, shape)


def _checked_positions(positions: Any, count: int) -> Int[np.ndarray, " k"]:
    positions = np.asarray(positions)
    if positions.ndim != 1 or len(positions) == 0 or not np.issubdtype(positions.dtype, np.integer):
        raise ValueError(
            f"positions: expected one or more whole numbers, got {positions.dtype} of shape {list(positions.shape)}"
        )
    bad = positions[(positions < 0) | (positions >= count)]
    if len(bad):
        raise ValueError(f"positions: expected from 0 to {count - 1}, as there are {count} images, got {bad[:5].tolist()}")
    return positions


def _checked_channels(channels: Mapping[str, int], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    for layer, channel in channels.items():
        if layer not in shapes:
            raise ValueError(f"channels: layer {layer!r} has no map; the layers with space are {', '.join(shapes) or 'none'}")
        if not 0 <= channel < shapes[layer][2]:
            raise ValueError(f"channels: expected from 0 to {shapes[layer][2] - 1} for layer {layer!r}, got {channel}")
    return dict(channels)


def _stacked(images: Images, positions: Int[np.ndarray, " k"]) -> Float32[np.ndarray, "k h w c"]:
    chosen = [np.asarray(images[int(position)]) for position in positions]
    shapes = sorted({image.shape for image in chosen})
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][2] not in (1, 3):
        raise ValueError(f"images: expected [h, w, 3] or [h, w, 1] of one size, got {', '.join(map(str, shapes))}")
    if not all(np.issubdtype(image.dtype, np.floating) for image in chosen):
        raise ValueError(f"images: expected floating numbers, normalised as for the network's training, got {chosen[0].dtype}")
    bad = [p for p, image in zip(positions.tolist(), chosen, strict=True) if not np.isfinite(image).all()]
    if bad:
        raise ValueError(f"images: expected finite numbers, found NaN or infinity at positions {bad[:5]}")
    return np.stack(chosen).astype(np.float32)


def _displayed(x: Float32[np.ndarray, "k h w c"]) -> UInt8[np.ndarray, "k h w 3"]:
    """Stretched from each image's smallest number to its largest."""
    low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
    scaled = 255 * (x - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.broadcast_to(np.rint(scaled).astype(np.uint8), (*x.shape[:3], 3)).copy()
