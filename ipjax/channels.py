"""What every single channel tells about the label and about the input: one-dimensional information, all channels at once.

The label by nearest neighbours (Ross 2014, see `ipjax.estimators.ross`), the input by the kernel density bound (Kolchinsky
and Tracey 2017, see `ipjax.estimators.kde`). In one dimension sorting stands in for the matrix of distances: both cost
n log n a channel. Channels are sorted by NumPy, in a tenth of the time that XLA's sort takes on CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ipjax.estimators.base import check_positive, checked_labels, some_samples
from ipjax.estimators.kde import KDE, MEDIAN_SAMPLES
from ipjax.estimators.ross import Ross, information
from ipjax.files import Record
from ipjax.information_plane import InformationPlane

_VALUES = 2**19  # in a block of channels
_POLES = 12  # of the kernel's sum of exponentials, in conjugate pairs


def label_information(features: ArrayLike, labels: ArrayLike, num_neighbors: int = 3) -> Float[Array, " channels"]:
    """I(c_j; Y) of every channel c_j alone, in nats, never clipped: `ipjax.estimators.Ross` on one feature at a time.

    Holds, ties and all, as `Ross` does; for channels without ties the value is that of scikit-learn's `mutual_info_classif`,
    less its jitter and its clipping at 0. A channel that does not vary gives 0. Ceiling: the labels' entropy.

    **Arguments:**

    - `features`: `[n, channels]`, floating.
    - `labels`: `[n]` integers. Classes of at most `num_neighbors` samples use all they have, classes of one are left out.
    - `num_neighbors`: k.

    **Raises:** `ValueError` for features that are not finite floating `[n, channels]`, different lengths, labels that are
    negative, not integers or all different, or `num_neighbors` below 1 or not below n.
    """
    columns = _checked(features)
    y = _checked_classes(labels, columns.shape[1], num_neighbors)
    return _about_label(columns, np.sort(columns, axis=1), y, num_neighbors)


def input_information(features: ArrayLike, noise: float = 0.05) -> Float[Array, " channels"]:
    """I(X; c_j + sZ) of every channel c_j alone through Gaussian noise Z, in nats: `ipjax.estimators.KDE` a feature at a time.

    s² = `noise` x the median squared pairwise distance of the channel (see `KDE`). The value is the bound KL
    = -1/n Σ_i ln 1/n Σ_j exp(-(c_i - c_j)² / 2s²), to about 1e-5. A channel that does not vary gives 0. Ceiling: ln n.

    **Arguments:**

    - `features`: `[n, channels]`, floating.
    - `noise`: finite, above 0.

    **Raises:** `ValueError` for features that are not finite floating `[n, channels]`, or another `noise`.
    """
    check_positive(noise=noise)
    columns = _checked(features)
    return _about_input(columns, np.sort(columns, axis=1), noise)


def measure_channels(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    noise: float = 0.05,
    representation: str = "activation",
    num_null: int = 9,
    seed: int = 0,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> InformationPlane:
    """Label and input information of every channel of every layer, with the layer's null, ranked within the layer.

    **Arguments:**

    - `features`: layer -> `[n, channels]`, in forward order, the same samples for all.
    - `labels`: `[n]` integers.
    - `noise`: of `input_information`.
    - `representation`: written into the records: what the features are of their layer.
    - `num_null`: how often the labels are shuffled for the null.
    - `track`: wraps the sequence of passes over all channels, one for the labels and one a shuffle, for progress.

    **Returns** a record a channel, in nats: `representation`, `layer`, `depth`, `channel`, `rank` (1 for the one of its layer
    that tells most about the label), `label_information`, `input_information`, `num_channels` of the layer, `num_samples`,
    `num_null`, `input_estimator` and `label_estimator` (which the two are equal to), `label_null` and `label_null_upper`: mean
    and largest over the layer's channels and the shuffles (`None` without shuffles). Of 1 + `num_null`
    layers that know nothing of the label, one has a channel above the largest.

    **Raises:** `ValueError` as `label_information` and `input_information` do, naming the layer, and without layers.
    """
    if not features:
        raise ValueError("features: expected at least one layer, got none")
    if num_null < 0:
        raise ValueError(f"num_null: expected 0 or more, got {num_null}")
    arrays = {layer: np.asarray(values) for layer, values in features.items()}
    n = len(checked_labels(labels, "labels"))
    parts = []
    for layer, values in arrays.items():
        parts.append(_checked(values, f"features of layer {layer!r}"))
        if len(values) != n:
            raise ValueError(f"features of layer {layer!r}: expected as many samples as labels, {n}, got {len(values)}")
    check_positive(noise=noise)
    y, num_neighbors = _checked_classes(labels, n, Ross().num_neighbors), Ross().num_neighbors
    # One array of all channels: a single shape is compiled. Sorted once for all that is asked about them.
    columns, layer_ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1]
    ordered = np.sort(columns, axis=1)
    about_input = np.split(np.asarray(_about_input(columns, ordered, noise)), layer_ends)
    orders = [np.arange(n), *(np.random.default_rng([seed, i]).permutation(n) for i in range(num_null))]
    passes = [np.asarray(_about_label(columns, ordered, y[orders[i]], num_neighbors)) for i in track(range(len(orders)))]
    label = np.split(np.stack(passes), layer_ends, axis=1)
    records = []
    for depth, (layer, of_label, of_input) in enumerate(zip(arrays, label, about_input, strict=True)):
        value, nulls = of_label[0], of_label[1:]
        rank = 1 + np.argsort(np.argsort(-value, kind="stable"))
        of_layer = {
            "num_channels": len(value),
            "num_samples": n,
            "input_estimator": repr(KDE(noise)),
            "label_estimator": repr(Ross()),
            "num_null": num_null,
            "label_null": float(nulls.mean()) if num_null else None,
            "label_null_upper": float(nulls.max()) if num_null else None,
        }
        for channel in range(len(value)):
            records.append(
                {
                    "representation": representation,
                    "layer": layer,
                    "depth": depth,
                    "channel": channel,
                    "rank": int(rank[channel]),
                    "label_information": float(value[channel]),
                    "input_information": float(of_input[channel]),
                    **of_layer,
                }
            )
    return InformationPlane(tuple(records))


@dataclass(frozen=True)
class Concentration:
    """How many of a layer's channels carry its label information, each measured alone.

    **Attributes:**

    - `num_channels`: of the layer.
    - `num_informative`: those above the null's largest value, and above 0.
    - `num_holding_half`: the fewest of these whose information sums to half of what all of these sum to. Channels may tell the
        same, so the sum is no information of the layer's.
    """

    num_channels: int
    num_informative: int
    num_holding_half: int


def concentration(channels: InformationPlane) -> dict[str, Concentration]:
    """Of every layer, from the records of `measure_channels` of one representation.

    **Raises:** `ValueError` for several representations (use `channels.select`) and for records without a null.
    """
    if len({record["representation"] for record in channels.records}) > 1:
        raise ValueError("channels: expected one representation; choose with channels.select(representation=...)")
    named = [(record["layer"], record.get("channel")) for record in channels.records]
    if len(set(named)) < len(named) or any(channel is None for _, channel in named):
        raise ValueError("channels: expected a record a channel, as measure_channels gives them")
    if any(record["label_null_upper"] is None for record in channels.records):
        raise ValueError("channels: expected records with a null; measure_channels gives it with num_null above 0")
    layers: dict[str, list[Record]] = {}
    for record in channels.records:
        layers.setdefault(record["layer"], []).append(record)
    return {layer: _concentration(records) for layer, records in layers.items()}


def _concentration(records: Sequence[Record]) -> Concentration:
    null = max(records[0]["label_null_upper"], 0)
    known = sorted((r["label_information"] for r in records if r["label_information"] > null), reverse=True)
    holding_half = np.searchsorted(np.cumsum(known), sum(known) / 2) + 1 if known else 0
    return Concentration(len(records), len(known), int(holding_half))


def _about_label(
    columns: Float[np.ndarray, "c n"], ordered: Float[np.ndarray, "c n"], y: Int[np.ndarray, " n"], k: int
) -> Float[Array, " c"]:
    """`label_information` of channels, as they come and in ascending order."""
    sizes = np.bincount(y)
    kept = sizes[y] > 1
    if not kept.all():
        columns, y, sizes = columns[:, kept], y[kept], sizes[sizes > 1]
        ordered = np.sort(columns, axis=1)
    order, ends = np.argsort(y, kind="stable"), np.cumsum(sizes)
    start, end = np.repeat(ends - sizes, sizes), np.repeat(ends, sizes)

    def block(columns: np.ndarray, ordered: np.ndarray) -> Array:
        by_class = columns[:, order]
        for last, size in zip(ends, sizes, strict=True):
            by_class[:, last - size : last].sort(axis=1)
        return _label_information(ordered, by_class, start, end, k)

    return _by_blocks(block, columns, ordered)


def _about_input(
    columns: Float[np.ndarray, "c n"], ordered: Float[np.ndarray, "c n"], noise: float | Array
) -> Float[Array, " c"]:
    """`input_information` of channels, as they come and in ascending order."""
    some = some_samples(columns.shape[1], MEDIAN_SAMPLES)

    def block(columns: np.ndarray, ordered: np.ndarray) -> Array:
        return _input_information(ordered, np.sort(columns[:, some], axis=1), noise)

    return _by_blocks(block, columns, ordered)


@partial(jax.jit, static_argnames="k")
def _label_information(
    ordered: Float[Array, "c n"], by_class: Float[Array, "c n"], start: Int[Array, " n"], end: Int[Array, " n"], k: int
) -> Float[Array, " c"]:
    """Ross's estimate from the channels' values in ascending order, and once more within each class, which takes the places
    from `start` to `end`."""
    n, place, size = len(start), jnp.arange(len(start)), end - start
    neighbours = jnp.minimum(k, size - 1)
    radius = jnp.full_like(by_class, jnp.inf)
    farthest = by_class[:, jnp.minimum(place + neighbours, n - 1)]
    for below in range(k + 1):  # the k neighbours in a class are a window: some below, the others above
        inside = (place - below >= start) & (place + neighbours - below < end) & (below <= neighbours)
        first, last = (jnp.roll(values, below, axis=1) for values in (by_class, farthest))
        reach = jnp.maximum(by_class - first, last - by_class)
        radius = jnp.where(inside & (reach < radius), reach, radius)
    itself = (radius == 0).astype(jnp.int32) - 1
    own = _count_within(by_class, by_class, radius, start, end) + itself
    everyone = _count_within(ordered, by_class, radius, jnp.zeros_like(start), jnp.full_like(end, n)) + itself
    counts = own.astype(radius.dtype), everyone.astype(radius.dtype)
    return jax.vmap(lambda own, everyone: information(own, everyone, size.astype(radius.dtype))[0])(*counts)


def _count_within(
    ordered: Float[Array, "c n"],
    centre: Float[Array, "c n"],
    radius: Float[Array, "c n"],
    start: Int[Array, " n"],
    end: Int[Array, " n"],
) -> Int[Array, "c n"]:
    """How many values, among those from `start` to `end`, lie no farther from each centre than its radius.

    The searches compare differences, as the radius is one: centre + radius would round to either side of the neighbour.
    """
    farther = _first(ordered, lambda values: values - centre > radius, start, end)
    return farther - _first(ordered, lambda values: values - centre >= -radius, start, end)


def _first(
    ordered: Float[Array, "c n"], beyond: Callable[[Array], Array], start: Int[Array, " m"], end: Int[Array, " m"]
) -> Int[Array, "c m"]:
    """The first place from `start` to `end` whose value is `beyond`; `end` where none is.

    Steps of halving size go on as long as the value before the new place is not beyond.
    """
    channels, n = ordered.shape
    row = n * jnp.arange(channels)[:, None]

    def step(bit: int | Array, found: Array) -> Array:
        last = found + (2 ** (n.bit_length() - 1) >> bit) - 1
        values = ordered.ravel().at[row + jnp.minimum(last, n - 1)].get(mode="promise_in_bounds")
        return jnp.where((last < end) & ~beyond(values), last + 1, found)

    places = jnp.broadcast_to(start.astype(jnp.int32), (channels, len(start)))
    return jax.lax.fori_loop(0, n.bit_length(), step, places)


@jax.jit
def _input_information(ordered: Float[Array, "c n"], sample: Float[Array, "c m"], noise: float | Array) -> Float[Array, " c"]:
    """The KL bound of every channel, from the sums of the kernel over the points on either side of each point."""
    n = ordered.shape[1]
    scale = _noise_scale(ordered, sample, noise)
    rates, weights = exponentials(_POLES)
    gaps = jnp.diff(ordered, axis=1).T / scale[:, None].T
    decays = jnp.exp(-gaps[:, :, None] * rates.astype(jnp.result_type(gaps, jnp.complex64)))

    def step(total: Array, decay: Array) -> tuple[Array, Array]:
        """What the points passed so far leave at the next one."""
        total = (total + 1) * decay
        return total, jnp.sum((total * weights).real, axis=1).astype(ordered.dtype)

    none = jnp.zeros_like(decays[0])
    below = jax.lax.scan(step, none, decays)[1]
    above = jax.lax.scan(step, none, decays, reverse=True)[1]
    others = jnp.pad(below, ((1, 0), (0, 0))) + jnp.pad(above, ((0, 1), (0, 0)))
    return -jnp.mean(jnp.log((1 + jnp.maximum(others, 0)) / n), axis=0)


def _noise_scale(ordered: Float[Array, "c n"], sample: Float[Array, "c m"], noise: float | Array) -> Float[Array, " c"]:
    """s of `ipjax.estimators.kde.noise_variance`, whose median distance comes here from counting pairs in a sorted sample."""
    m = sample.shape[1]
    start, end = jnp.zeros(m, jnp.int32), jnp.full(m, m, jnp.int32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (bounds[0] + bounds[1]) / 2
        limit = sample + middle[:, None]
        pairs = jnp.sum(_first(sample, lambda values: values > limit, start, end) - jnp.arange(1, m + 1), axis=1)
        too_low = 2 * pairs < m * (m - 1) // 2
        return jnp.where(too_low, middle, bounds[0]), jnp.where(too_low, bounds[1], middle)

    bounds = jnp.zeros_like(sample[:, 0]), sample[:, -1] - sample[:, 0]
    median = jax.lax.fori_loop(0, jnp.finfo(sample.dtype).nmant + 8, halve, bounds)[1]
    mean = 2 * jnp.var(ordered, axis=1)
    scale = noise * jnp.where(median**2 > 1e-5 * mean, median**2, mean)
    return jnp.sqrt(jnp.where(scale > 0, scale, 1))


def exponentials(poles: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates r and weights w with exp(-u²/2) = Re Σ w exp(-r u) for u >= 0, to about 3.2^-poles.

    The Gaussian is a heat kernel, whose Laplace transform in time is exp(-√z |u|) / 2√z; this is the inverse transform by the
    midpoint rule on the hyperbola of Trefethen, Weideman and Schmelzer 2006 ("Talbot quadratures and rational
    approximations"), with one of each conjugate pair.
    """
    theta = np.pi * np.arange(1, poles, 2) / poles
    z = 2.246 * poles * (1 - np.sin(1.1721 - 0.3443j * theta))
    slope = 2.246 * poles * 0.3443j * np.cos(1.1721 - 0.3443j * theta)
    root = np.sqrt(z)
    return np.sqrt(2) * root, 2 * np.sqrt(4 * np.pi) * np.exp(z) * slope / (1j * poles) / (2 * root)


def _checked(features: ArrayLike, what: str = "features") -> np.ndarray:
    """The channels as rows, each with its own offset and scale taken out so that single precision suffices."""
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[1] == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{what}: expected floating [samples, channels], got {array.dtype} of shape {list(array.shape)}; "
            "apply a readout that keeps channels first"
        )
    if len(array) < 2:
        raise ValueError(f"{what}: expected at least 2 samples, got {len(array)}")
    columns = array.T.astype(np.float64)
    finite = np.isfinite(columns).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what}: expected finite values, found NaN or infinity in {(~finite).sum()} of {len(columns)} channels, "
            f"first {np.flatnonzero(~finite)[:5].tolist()}"
        )
    columns = columns - columns.mean(axis=1, keepdims=True)
    largest = np.abs(columns).max(axis=1, keepdims=True)
    return (columns / np.where(largest > 0, largest, 1)).astype(jnp.result_type(float))


def _checked_classes(labels: ArrayLike, n: int, num_neighbors: int) -> Int[np.ndarray, " n"]:
    """Labels without gaps."""
    y = checked_labels(labels, "labels")
    if len(y) != n:
        raise ValueError(f"samples: expected as many features as labels, got {n} and {len(y)}")
    if not 1 <= num_neighbors < n:
        raise ValueError(f"num_neighbors: expected from 1 to {n - 1}, one less than the samples, got {num_neighbors}")
    if y.distinct:
        raise ValueError("labels: all are different, so no sample has a neighbour in its class; expected classes that repeat")
    return np.asarray(y.values)


def _by_blocks(block: Callable[[np.ndarray, np.ndarray], Array], *arrays: Float[np.ndarray, "c n"]) -> Float[Array, " c"]:
    """`block(channels [b, n], ...) -> [b]` over all channels, in blocks of one size, the last one filled up with zeros."""
    channels, n = arrays[0].shape
    blocks = max(1, math.ceil(channels * n / _VALUES))
    size = math.ceil(channels / blocks)
    padded = [np.pad(values, ((0, blocks * size - channels), (0, 0))) for values in arrays]
    parts = zip(*(np.split(values, blocks) for values in padded), strict=True)
    return jnp.concatenate([block(*part) for part in parts])[:channels]
