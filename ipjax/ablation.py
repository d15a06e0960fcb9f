"""What a trained network loses when a block or some channels are knocked out.

What is knocked out is replaced by its mean over data, unit by unit (mean ablation: a zero may be far from anything that the
layers after it have seen). Residual branches one at a time after Veit, Wilber and Belongie 2016 (arXiv:1605.06431); deletion
and insertion curves after Petsiuk, Das and Saenko 2018 (arXiv:1806.07421), of channels in place of pixels. The channels to
replace are an input of one compiled function, so no ablation compiles anew.

Means and rankings are to be made on other images than the losses are measured on: the caller splits them. Intervals are of
paired differences over the images: mean ± 1.96 standard errors of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from ipjax.files import Record
from ipjax.taps import Network, value_at

SHARES = (0.1, 0.25, 0.5, 0.75)
RANDOM = "random"
_MANY = 16  # ablations of one layer from which compiling what comes after it pays
Images = Array | np.ndarray  # [n, ...]
ByLayer = Mapping[str, ArrayLike]
Track = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class Losses:
    """Of every image: its cross-entropy in nats, and whether it is classified as labelled."""

    cross_entropy: Float[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]


def residual_branches(net: Network, x: Images) -> dict[str, str]:
    """Block -> the layer that ends its residual branch, of the default layers that are blocks with torchvision's names:
    the last batch norm before the addition (`layer1.0` -> `layer1.0.bn3`). Empty for networks without such blocks."""
    every = net.layers(x, "all")
    ends = {block: [f"{block}.{end}" for end in ("bn3", "bn2") if f"{block}.{end}" in every] for block in net.layers(x)}
    return {block: found[0] for block, found in ends.items() if found}


def means(net: Network, x: Images, layers: Sequence[str], *, images_at_once: int = 64) -> dict[str, Array]:
    """Mean over reference images `x` `[n, ...]` of every unit: layer -> `[*layer shape]`, in one pass.

    They say what can be knocked out: give all of `residual_branches` and of the layers whose channels are asked about at
    once, since all calls with the same means share their compiled code.
    """
    names = net.layers(x[:1], layers)
    totals = {name: np.zeros(shape.shape[1:]) for name, shape in net.layer_shapes(x[:1]).items() if name in names}
    for (block,), count in blocks(x, images_at_once=images_at_once):
        sums = jax.device_get(_sums(net, block, jnp.arange(len(block)) < count, names))
        totals = {name: total + sums[name] for name, total in totals.items()}
    return {name: jnp.asarray(total / len(x), jnp.float32) for name, total in totals.items()}


def evaluate(
    net: Network,
    x: Images,
    labels: ArrayLike,
    means: Mapping[str, Array],
    removed: ByLayer,
    *,
    images_at_once: int = 64,
) -> Losses:
    """The losses of images with the marked channels replaced by their means.

    **Arguments:**

    - `x`: `[n, ...]`, images that had no part in `means`.
    - `labels`: `[n]` integers, the network's classes.
    - `means`: of the layers that can be replaced, see `means`.
    - `removed`: layer -> mask `[channels]` of what is replaced; layers left out stay as they are.
    - `images_at_once`: evaluated together, the last of these blocks being filled up.

    **Raises:** `ValueError` for labels that are not the network's classes, a mask of another shape, and logits that are not
    finite; `KeyError` for a layer without means.
    """
    return _Ablated.of(net, x, labels, means, images_at_once)(removed)


def knock_out_blocks(
    net: Network,
    x: Images,
    labels: ArrayLike,
    means: Mapping[str, Array],
    branches: Mapping[str, str] | None = None,
    *,
    images_at_once: int = 64,
    track: Track = iter,
) -> tuple[Record, ...]:
    """The loss of replacing each block's residual branch by its mean: the block then passes its shortcut on, plus a constant.

    **Arguments:** as of `evaluate`, and

    - `branches`: block -> the layer that ends its branch, which must be in `means`; default: `residual_branches`.
    - `track`: wraps the sequence of blocks, for progress.

    **Returns** a record a block: `kind` ("block"), `layer`, `depth` (its place among the default layers), `num_samples`,
    `accuracy`, `cross_entropy` (nats), `loss` (increase of the cross-entropy over the intact network) and `accuracy_drop`, each
    with `_lower` and `_upper`, `intact_accuracy`, `intact_cross_entropy`; `None` at what only channels have.
    """
    branches = residual_branches(net, x[:1]) if branches is None else branches
    if not branches:
        return ()
    ablated = _Ablated.of(net, x, labels, means, images_at_once)
    order, intact = _order(net, x, tuple(branches)), ablated({})
    records = []
    for block in track(sorted(branches, key=order.index)):
        losses = ablated({branches[block]: np.ones(ablated.num_channels(branches[block]), bool)})
        records.append(_record("block", block, order.index(block), losses, intact))
    return tuple(records)


def channel_curves(
    net: Network,
    x: Images,
    labels: ArrayLike,
    means: Mapping[str, Array],
    layers: Sequence[str],
    scores: Mapping[str, ByLayer],
    *,
    shares: Sequence[float] = SHARES,
    repeats: int = 3,
    seed: int = 0,
    images_at_once: int = 64,
    track: Track = iter,
) -> tuple[Record, ...]:
    """Deletion and insertion curves of the channels of each layer, by each ranking and by chance.

    Deletion replaces the best channels by their means, insertion all but the best. A good ranking loses much at once by
    deletion and little by insertion.

    **Arguments:** as of `evaluate`, and

    - `layers`: whose channels are replaced, one layer at a time.
    - `scores`: ranking -> layer -> `[channels]`, the largest first, see `ipjax.scores`; may be empty. Of channels with
        equal scores the first comes first.
    - `shares`: of the channels replaced (deletion) or kept (insertion), ascending between 0 and 1; rounded to whole channels.
        The ends, 0 and 1, are added.
    - `repeats`: random rankings. A draw's insertion keeps what its deletion removes last, so the two share evaluations.
    - `track`: wraps the sequence of layers, for progress.

    **Returns** a record a layer, ranking, draw, curve and share: as of `knock_out_blocks` with `kind` "channels", `ranking`
    (`"random"` among them), `curve` ("deletion" or "insertion"), `share`, `num_channels` (replaced, or kept) and `repeat`.
    """
    if any(not 0 < share < 1 for share in shares) or any(np.diff(shares) <= 0):
        raise ValueError(f"shares: expected numbers between 0 and 1 in ascending order, got {list(shares)}")
    if repeats < 0:
        raise ValueError(f"repeats: expected 0 or more, got {repeats}")
    if RANDOM in scores:
        raise ValueError(f"scores: the name {RANDOM!r} is taken; choose another")
    ablated = _Ablated.of(net, x, labels, means, images_at_once)
    order, names = _order(net, x, layers), net.layers(x[:1], layers)
    ranked = {name: _rankings(name, ablated.num_channels(name), scores) for name in names}
    intact = ablated({})
    records = []
    for name in track(names):
        depth, channels = order.index(name), ablated.num_channels(name)
        draws = [np.random.default_rng([seed, depth, repeat]).permutation(channels) for repeat in range(repeats)]
        curves = [(ranking, 0, (best, best)) for ranking, best in ranked[name].items()]
        curves += [(RANDOM, repeat, (draw, draw[::-1])) for repeat, draw in enumerate(draws)]
        points, masks = [], {}
        for ranking, repeat, orders in curves:
            for curve, best in zip(("deletion", "insertion"), orders, strict=True):
                for share in (0.0, *shares, 1.0):
                    num_channels = round(share * channels)
                    removed = np.full(channels, curve == "insertion")
                    removed[best[:num_channels]] = curve == "deletion"
                    masks[removed.tobytes()] = removed
                    of_channels = {"ranking": ranking, "curve": curve, "share": share, "num_channels": num_channels}
                    points.append((removed.tobytes(), of_channels | {"repeat": repeat}))
        of_none = masks.pop(np.zeros(channels, bool).tobytes(), None)
        start = name if len(masks) > _MANY else None
        known = dict(zip(masks, ablated.each([{name: mask} for mask in masks.values()], start), strict=True))
        if of_none is not None:
            known[of_none.tobytes()] = intact
        records += [_record("channels", name, depth, known[mask], intact, **point) for mask, point in points]
    return tuple(records)


def areas(records: Sequence[Record]) -> tuple[Record, ...]:
    """Areas under the curves of `channel_curves` over the share from 0 to 1, by the trapezoid rule.

    A record a layer, ranking and curve: `layer`, `depth`, `ranking`, `curve`, `accuracy_area`, `cross_entropy_area` (nats), for
    random rankings the mean over draws with the least and the largest as `_lower` and `_upper`. Low accuracy areas of deletion
    and high ones of insertion speak for a ranking.
    """
    curves: dict[tuple, dict[int, list[Record]]] = {}
    for record in records:
        if record["kind"] == "channels":
            key = tuple(record[name] for name in ("layer", "depth", "ranking", "curve"))
            curves.setdefault(key, {}).setdefault(record["repeat"], []).append(record)
    found = []
    for key, repeats in curves.items():
        area = dict(zip(("layer", "depth", "ranking", "curve"), key, strict=True))
        for measure in ("accuracy", "cross_entropy"):
            values = [np.trapezoid([r[measure] for r in rows], [r["share"] for r in rows]) for rows in repeats.values()]
            spread = (float(min(values)), float(max(values))) if area["ranking"] == RANDOM else (None, None)
            names = (f"{measure}_area", f"{measure}_area_lower", f"{measure}_area_upper")
            area |= dict(zip(names, (float(np.mean(values)), *spread), strict=True))
        found.append(area)
    return tuple(found)


@dataclass(frozen=True)
class _Ablated:
    """A network on labelled images that are on the device, in blocks of one size."""

    net: Network
    parts: tuple[tuple[Any, ...], ...]
    means: dict[str, Array]

    @staticmethod
    def of(net: Network, x: Images, labels: ArrayLike, means: Mapping[str, Array], images_at_once: int) -> _Ablated:
        y = np.asarray(labels)
        num_classes = net.logits_shape(x[:1]).shape[1]
        if not len(x):
            raise ValueError("x: expected at least 2 images, got 0")
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"labels: expected {len(x)} integers, one an image, got {y.dtype} of shape {list(y.shape)}")
        if y.min() < 0 or y.max() >= num_classes:
            raise ValueError(f"labels: expected the network's classes, 0 to {num_classes - 1}, got {y.min()} to {y.max()}")
        shapes = net.layer_shapes(x[:1])
        for name in net.layers(x[:1], tuple(means)):
            expected, got = list(shapes[name].shape[1:]), list(np.shape(means[name]))
            if not expected:
                raise ValueError(f"means of layer {name!r}: it has no channels, one number an image; leave it out")
            if got != expected:
                raise ValueError(
                    f"means of layer {name!r}: expected shape {expected}, got {got}; make them with ablation.means"
                )
        parts = tuple((*rows, count) for rows, count in blocks(x, y, images_at_once=images_at_once))
        return _Ablated(net, parts, {name: jnp.asarray(values) for name, values in means.items()})

    def num_channels(self, name: str) -> int:
        if name not in self.means:
            raise KeyError(f"no means of layer {name!r}, only of {', '.join(self.means)}; give it to ablation.means")
        return self.means[name].shape[-1]

    def __call__(self, removed: ByLayer) -> Losses:
        return self.each([removed])[0]

    def each(self, removed: Sequence[ByLayer], start: str | None = None) -> list[Losses]:
        """The losses with each of these removed. Where all are of one layer, `start`, what comes before it is computed once."""
        masks = [self._masks(each) for each in removed]
        parts: list[list[tuple[Array, Array]]] = [[] for _ in removed]
        for x, y, _ in self.parts:
            value = None if start is None else value_at(self.net, x, start)
            for mask, found in zip(masks, parts, strict=True):
                found.append(_losses(self.net, x, y, mask, self.means, value, start))
        return [self._joined(found) for found in jax.device_get(parts)]

    def _masks(self, removed: ByLayer) -> dict[str, Array]:
        masks = {name: np.zeros(self.num_channels(name), bool) for name in self.means}
        for name, mask in removed.items():
            mask = np.asarray(mask)
            if mask.shape != (self.num_channels(name),) or mask.dtype != bool:
                raise ValueError(
                    f"removed of layer {name!r}: expected a boolean mask [{self.num_channels(name)}], "
                    f"got {mask.dtype} of shape {list(mask.shape)}"
                )
            masks[name] = mask
        return jax.device_put(masks)

    def _joined(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Losses:
        counted = [tuple(values[:count] for values in part) for part, (*_, count) in zip(parts, self.parts, strict=True)]
        cross_entropy, correct = (np.concatenate(values) for values in zip(*counted, strict=True))
        if not np.isfinite(cross_entropy).all():
            raise ValueError(f"logits: not finite for {(~np.isfinite(cross_entropy)).sum()} images; check weights and images")
        return Losses(cross_entropy.astype(np.float64), correct)


@partial(jax.jit, static_argnames="start")
def _losses(
    net: Network,
    x: Array,
    labels: Array,
    removed: dict[str, Array],
    means: dict[str, Array],
    at_start: Array | None,
    start: str | None,
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    def tap(name: str, value: Array) -> Array:
        value = at_start if at_start is not None and name == start else value  # what only led to it is not compiled
        return jnp.where(removed[name], means[name].astype(value.dtype), value) if name in means else value

    logits = net.run(x, tap).astype(jnp.float32)
    of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return -of_label, jnp.argmax(logits, axis=1) == labels


@partial(jax.jit, static_argnames="names")
def _sums(net: Network, x: Array, counted: Bool[Array, " n"], names: tuple[str, ...]) -> dict[str, Array]:
    values = net.activations(x, names)[1]
    return {
        name: jnp.einsum("b,b...->...", counted.astype(jnp.float32), value.astype(jnp.float32), precision="highest")
        for name, value in values.items()
    }


def blocks(x: Images, *rows: ArrayLike, images_at_once: int = 64) -> Iterator[tuple[tuple[Array, ...], int]]:
    """Images, and other rows that go with them, shared out evenly over blocks of one size, with how many count: the last block
    starts over."""
    n = len(x)
    if n < 2:
        raise ValueError(f"x: expected at least 2 images, got {n}")
    if images_at_once < 1:
        raise ValueError(f"images_at_once: expected at least 1, got {images_at_once}")
    size = -(-n // -(-n // images_at_once))
    for first in range(0, n, size):
        index = np.arange(first, first + size) % n
        yield tuple(jnp.asarray(np.asarray(values)[index]) for values in (x, *rows)), min(size, n - first)


def _order(net: Network, x: Images, layers: Sequence[str]) -> tuple[str, ...]:
    """The default layers and these, in forward order: a layer's depth is its place among them."""
    return net.layers(x[:1], tuple(dict.fromkeys((*net.layers(x[:1]), *layers))))


def _rankings(name: str, channels: int, scores: Mapping[str, ByLayer]) -> dict[str, np.ndarray]:
    """Ranking -> the layer's channels, the best first."""
    best = {}
    for ranking, layers in scores.items():
        if name not in layers:
            raise KeyError(f"scores: {ranking!r} has no layer {name!r}, only {', '.join(layers)}")
        score = np.asarray(layers[name], np.float64)  # unsigned integers have no negatives to sort by
        if score.shape != (channels,) or not np.isfinite(score).all():
            raise ValueError(f"scores: expected {channels} finite numbers of layer {name!r} by {ranking!r}, got {score}")
        best[ranking] = np.argsort(-score, kind="stable")
    return best


def _record(
    kind: str,
    layer: str,
    depth: int,
    losses: Losses,
    intact: Losses,
    *,
    ranking: str | None = None,
    curve: str | None = None,
    share: float | None = None,
    num_channels: int | None = None,
    repeat: int | None = None,
) -> Record:
    return {
        "kind": kind,
        "layer": layer,
        "depth": depth,
        "ranking": ranking,
        "curve": curve,
        "share": share,
        "num_channels": num_channels,
        "repeat": repeat,
        "num_samples": len(losses.correct),
        "accuracy": float(losses.correct.mean()),
        "cross_entropy": float(losses.cross_entropy.mean()),
        **_paired("loss", losses.cross_entropy - intact.cross_entropy),
        **_paired("accuracy_drop", intact.correct.astype(float) - losses.correct),
        "intact_accuracy": float(intact.correct.mean()),
        "intact_cross_entropy": float(intact.cross_entropy.mean()),
    }


def _paired(name: str, differences: Float[np.ndarray, " n"]) -> Record:
    mean, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return {name: mean, f"{name}_lower": mean - 1.96 * error, f"{name}_upper": mean + 1.96 * error}
