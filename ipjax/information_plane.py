"""The information plane: for each layer, what its features tell about the input and about the label.

Tishby and Zaslavsky 2015 (arXiv:1503.02406); Shwartz-Ziv and Tishby 2017 (arXiv:1703.00810). Measuring makes plain
records, one a layer, each with what is needed to judge it: bounds, ceiling, a null from shuffled labels, an interval
from subsamples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from ipjax.estimators.base import Estimate, Estimator, Labels, checked, checked_labels
from ipjax.estimators.kde import KDE

Record = dict[str, Any]
_MIN_PER_CLASS = 20


@dataclass(frozen=True)
class InformationPlane:
    """Layers x what was measured of them.

    **Attributes:**

    - `records`: one dict a layer, representation and estimator, in forward order. Keys: `representation`, `layer`, `depth`,
        `input_estimator`, `label_estimator`, `num_samples`, `num_features`, `num_constant` (features that do not vary, not
        counted in `num_features`), and for each variable (`input`, `label` and the nuisances) `<variable>_information` with
        `_lower`, `_upper`, `_ceiling`, `_saturated`, `_null` (mean over shuffled labels), `_null_upper` (their largest),
        `_interval_lower`, `_interval_upper` (95 %) and `_subsamples` (the estimates behind the interval). In nats; `None`
        or absent where not measured.
    """

    records: tuple[Record, ...]

    def select(self, **values: Any) -> InformationPlane:
        """The records with these values, for instance `representation="contrast"`."""
        chosen = tuple(r for r in self.records if all(r.get(key) == value for key, value in values.items()))
        if not chosen:
            has = {key: sorted({str(r.get(key)) for r in self.records}) for key in values}
            raise KeyError(f"no record with {values}; the plane has {has}")
        return InformationPlane(chosen)

    def save(self, path: str | Path) -> None:
        """Writes the records as arrays, a column each, to a `.npz` file."""
        columns = {key: [record.get(key) for record in self.records] for key in _keys(self.records)}
        with _replacing(path) as file:
            np.savez_compressed(file, allow_pickle=False, **{key: _as_array(values) for key, values in columns.items()})

    @staticmethod
    def load(path: str | Path) -> InformationPlane:
        """What `save` wrote. Raises `FileNotFoundError`, and `ValueError` for a file that is not a plane's."""
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {key: _as_list(file[key]) for key in file.files}
        except FileNotFoundError:
            raise FileNotFoundError(f"information plane: expected a file at {path}, found nothing") from None
        except Exception as error:  # numpy raises many kinds for damaged files
            raise ValueError(f"{path} is not an information plane's file, or is damaged ({error}); measure it again") from error
        lengths = {len(column) if isinstance(column, list) else None for column in columns.values()}
        if "layer" not in columns or len(lengths) != 1 or None in lengths:
            raise ValueError(f"{path} is not an information plane's file: expected columns of one length, layer among them")
        for key in columns:
            if key.endswith("_saturated"):  # a gap in the column made numbers of it
                columns[key] = [None if value is None else bool(value) for value in columns[key] or ()]
        rows = zip(*columns.values(), strict=True)
        return InformationPlane(tuple(dict(zip(columns, row, strict=True)) for row in rows))

    def to_csv(self, path: str | Path) -> None:
        """Writes the records as rows, nats with 6 digits; empty where not measured. Subsamples are left out."""
        keys = [key for key in _keys(self.records) if not key.endswith("_subsamples")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([_as_text(record.get(key)) for key in keys] for record in self.records)
        with _replacing(path) as file:
            file.write(text.getvalue().encode())


def measure_plane(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    input_information: Estimator | None = KDE(),  # noqa: B008 (frozen)
    label_information: Estimator | None = KDE(),  # noqa: B008 (frozen)
    nuisances: Mapping[str, ArrayLike] | None = None,
    representation: str = "activation",
    num_null: int = 8,
    num_subsamples: int = 10,
    seed: int = 0,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> InformationPlane:
    """Measures I(X; C_l) and I(C_l; Y) of every layer, with the null and interval of each.

    **Arguments:**

    - `features`: layer -> `[n, d]`, in forward order, the same samples for all.
    - `labels`: `[n]` integers.
    - `input_information`: estimator of I(X; C_l), asked with every sample as a label of its own; `None` leaves it out.
    - `label_information`: estimator of I(C_l; Y), used for the nuisances as well; `None` leaves both out.
    - `nuisances`: name -> `[n]` integers that a good representation of the label drops (position, size, ...).
    - `representation`: written into the records: what the features are of their layer.
    - `num_null`: how often the labels are shuffled for the null.
    - `num_subsamples`: halves of the sample, drawn without replacement, whose spread gives the interval (Politis and Romano
        1994; a bootstrap's duplicates would break pairwise estimators). The same halves serve all layers and variables.
    - `track`: wraps the sequence of layers, for progress.

    **Raises:** `ValueError` as `mutual_information` does, naming the layer.
    """
    if not features:
        raise ValueError("features: expected at least one layer, got none")
    if num_null < 0 or num_subsamples < 0 or num_subsamples == 1:
        raise ValueError(f"num_null, num_subsamples: expected 0 or more, and not 1 subsample; got {num_null}, {num_subsamples}")
    variables = {"label": checked_labels(labels, "labels")}
    for name, values in (nuisances or {}).items():
        if name in ("input", "label"):
            raise ValueError(f"nuisances: the name {name!r} is taken; choose another")
        variables[name] = checked_labels(values, f"nuisance {name!r}")
    for layer, values in features.items():  # all of them before any long work
        checked(values, variables["label"], what=f"features of layer {layer!r}")
    layer, values = next(iter(features.items()))
    for y in variables.values():
        checked(values, y, what=f"features of layer {layer!r}")
    n = len(variables["label"])
    if n < 4 and num_subsamples:
        raise ValueError(f"samples: expected at least 4 to draw halves from, got {n}; pass num_subsamples=0 for fewer")
    key = jax.random.key(seed)
    records = []
    for depth, layer in enumerate(track(tuple(features))):
        values = np.asarray(features[layer])
        x, _ = checked(values, variables["label"])
        record: Record = {
            "representation": representation,
            "layer": layer,
            "depth": depth,
            "input_estimator": _name(input_information),
            "label_estimator": _name(label_information),
            "num_samples": n,
            "num_features": (num_varying := int(np.any(x, axis=0).sum())),
            "num_constant": x.shape[1] - num_varying,
        }
        if input_information is not None:
            record |= _variable("input", layer, input_information, x, Labels.unique(n), key, 0, num_subsamples)
        if label_information is not None:
            for name, y in variables.items():
                record |= _variable(name, layer, label_information, x, y, key, num_null, num_subsamples)
        records.append(record)
    return InformationPlane(tuple(records))


def noise_profile(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    noises: Sequence[float],
    *,
    representation: str = "activation",
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> InformationPlane:
    """Both axes by `KDE` at each noise level: how far the plane depends on a constant that nobody can choose for you.

    Arguments as in `measure_plane`. Records carry `representation`, `layer`, `depth`, `noise` and the `KDE` estimates;
    no null or interval.
    """
    if len(noises) == 0 or not all(0 < noise < np.inf for noise in noises):
        raise ValueError(f"noises: expected at least one number above 0, got {list(noises)}")
    if not features:
        raise ValueError("features: expected at least one layer, got none")
    y = checked_labels(labels, "labels")
    records = []
    for depth, layer in enumerate(track(tuple(features))):
        x, _ = checked(features[layer], y, what=f"features of layer {layer!r}")
        for_input, for_label = (
            _sweep(jnp.asarray(noises, x.dtype), x, Labels.unique(len(y))),
            _sweep(jnp.asarray(noises, x.dtype), x, y),
        )
        for i, noise in enumerate(noises):
            record: Record = {"representation": representation, "layer": layer, "depth": depth, "noise": float(noise)}
            for variable, estimates in (("input", for_input), ("label", for_label)):
                record |= _columns(variable, layer, jax.tree.map(lambda value, i=i: value[i], estimates))
            records.append(record)
    return InformationPlane(tuple(records))


def few_per_class(labels: ArrayLike) -> dict[int, int]:
    """Classes with fewer than 20 samples, and how many they have: too few for class-conditional estimates to be trusted."""
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    return {int(c): int(k) for c, k in zip(classes, counts, strict=True) if k < _MIN_PER_CLASS}


@jax.jit
def _sweep(noises: Float[Array, " m"], x: Float[Array, "n d"], y: Labels) -> Estimate:
    return jax.vmap(lambda noise: KDE(noise)(x, y, jax.random.key(0)))(noises)


@partial(jax.jit, static_argnames=("num_null", "num_subsamples"))
def _measure(
    estimator: Any, x: Float[Array, "n d"], y: Labels, key: Array, num_null: int, num_subsamples: int
) -> tuple[Estimate, Float[Array, " nulls"], Float[Array, " subsamples"]]:
    n = len(x)
    null_key, half_key, own_key = jax.random.split(key, 3)
    value = estimator(x, y, own_key)

    def shuffled(key: Array) -> Array:
        return estimator(x, replace(y, values=jax.random.permutation(key, y.values)), own_key).value

    def halved(key: Array) -> Array:
        half = jax.random.permutation(key, n)[: n // 2]
        return estimator(x[half], y[half], own_key).value

    # Shuffles are mapped in parallel, since an estimator's distances do not depend on them; halves one by one.
    nulls = jax.vmap(shuffled)(jax.random.split(null_key, num_null)) if num_null else jnp.zeros(0)
    halves = jax.lax.map(halved, jax.random.split(half_key, num_subsamples)) if num_subsamples else jnp.zeros(0)
    return value, nulls, halves


def _variable(
    name: str, layer: str, estimator: Estimator, x: Array, y: Labels, key: Array, num_null: int, num_subsamples: int
) -> Record:
    estimate, nulls, halves = jax.device_get(_measure(estimator, x, y, key, num_null, num_subsamples))
    record = _columns(name, layer, estimate)
    record[f"{name}_null"] = float(np.mean(nulls)) if num_null else None
    record[f"{name}_null_upper"] = float(np.max(nulls)) if num_null else None
    margin = spread(halves) if num_subsamples else None
    value = record[f"{name}_information"]
    record[f"{name}_interval_lower"] = None if margin is None else value - margin
    record[f"{name}_interval_upper"] = None if margin is None else value + margin
    record[f"{name}_subsamples"] = tuple(float(half) for half in halves) if num_subsamples else None
    return record


def spread(halves: ArrayLike) -> float:
    """Half the width of a 95 % interval (Student's t), from estimates on random halves of the sample.

    Over subsets of m of n samples a mean varies by σ² (1/m - 1/n), on n samples by σ²/n: for halves the same. It covers the
    sampling spread alone, not an estimator's bias.
    """
    halves = np.asarray(halves)
    return float(stats.t.ppf(0.975, len(halves) - 1) * np.std(halves, ddof=1))


def _columns(name: str, layer: str, estimate: Estimate) -> Record:
    record: Record = {
        f"{name}_information": float(estimate.value),
        f"{name}_lower": float(estimate.lower),
        f"{name}_upper": float(estimate.upper),
        f"{name}_ceiling": float(estimate.ceiling),
        f"{name}_saturated": bool(estimate.saturated),
    }
    bad = [key for key, value in record.items() if not np.isfinite(value)]
    if bad:
        raise ValueError(
            f"the estimator gave a value that is not finite for {', '.join(bad)} of layer {layer!r}; "
            "features may be too large for their precision: rescale them, or leave this layer out"
        )
    return record


@contextmanager
def _replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` only once it is written whole."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _name(estimator: Any) -> str | None:
    return None if estimator is None else repr(estimator)


def _keys(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record))


def _as_array(values: list[Any]) -> np.ndarray:
    """A column: strings with "" and numbers with NaN for `None`; tuples as rows, NaN-filled."""
    present = [value for value in values if value is not None]
    if present and isinstance(present[0], tuple):
        width = max(len(value) for value in present)
        rows = [(*(value or ()), *[np.nan] * (width - len(value or ()))) for value in values]
        return np.asarray(rows, np.float64)
    if present and isinstance(present[0], str):
        return np.asarray(["" if value is None else value for value in values])
    if len(present) == len(values):
        return np.asarray(values)
    return np.asarray([np.nan if value is None else float(value) for value in values])


def _as_list(array: np.ndarray) -> list[Any] | None:
    def value(item: Any) -> Any:
        if isinstance(item, list):
            kept = tuple(part for part in item if part == part)
            return kept or None
        return None if item == "" or item != item else item

    return [value(item) for item in array.tolist()] if array.ndim else None


def _as_text(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value
