"""The information plane: for each layer, what its features tell about the input and about the label.

Tishby and Zaslavsky 2015 (arXiv:1503.02406); Shwartz-Ziv and Tishby 2017 (arXiv:1703.00810). Measuring makes plain
records, one a layer, each with what is needed to judge it, see `ipjax.assessment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ipjax import files
from ipjax.assessment import assess_checked, check_counts, check_estimator, describe
from ipjax.estimators.base import Estimate, Estimator, Labels, alike, checked, checked_labels, together, varying
from ipjax.estimators.kde import KDE, held
from ipjax.files import Record


@dataclass(frozen=True)
class InformationPlane:
    """Layers x what was measured of them.

    **Attributes:**

    - `records`: one dict a layer, representation and estimator, in forward order. Keys: `representation`, `layer`, `depth`,
        `input_estimator`, `label_estimator`, `num_samples`, `num_null`, `num_subsamples`, `seed`, `num_features`,
        `num_constant` (features that do not vary, not counted in `num_features`), and for each variable (`input`, `label`
        and the nuisances) what `ipjax.assess` returns: `<variable>_information` with `_lower`, `_upper`, `_ceiling`,
        `_saturated`, `_null`, `_null_upper`, `_p_value`, `_interval_lower`, `_interval_upper`, `_extrapolated`, `_subsamples`
        and `_warnings`. In nats; `None` or absent where not measured.
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
        files.save(self.records, path)

    @staticmethod
    def load(path: str | Path) -> InformationPlane:
        """What `save` wrote. Raises `FileNotFoundError`, and `ValueError` for a file that is not a plane's."""
        records = files.load(path)
        if records and "layer" not in records[0]:
            raise ValueError(f"{path} is not an information plane's file: expected a column layer; measure it again")
        return InformationPlane(records)

    def to_csv(self, path: str | Path) -> None:
        """Writes the records as rows, nats with 6 digits; empty where not measured. Subsamples are left out."""
        files.to_csv(self.records, path)


def measure_plane(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    input_information: Estimator | None = KDE(),  # noqa: B008 (frozen)
    label_information: Estimator | None = KDE(),  # noqa: B008 (frozen)
    nuisances: Mapping[str, ArrayLike] | None = None,
    representation: str = "activation",
    num_null: int = 19,
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
    - `num_null`, `num_subsamples`: shuffles for the null and halves for the interval, see `ipjax.assess`. The same shuffles and
        halves serve all layers, so that differences between layers can be judged on them; a p-value is of one value alone.
    - `track`: wraps the sequence of layers, for progress.

    **Raises:** `ValueError` as `mutual_information` does, naming the layer.
    """
    if not features:
        raise ValueError("features: expected at least one layer, got none")
    check_counts(num_null, num_subsamples)
    for estimator in (input_information, label_information):
        if estimator is not None:
            check_estimator(estimator)
    variables = {"label": checked_labels(labels, "labels")}
    for name, values in (nuisances or {}).items():
        if name in ("input", "label", "num"):
            raise ValueError(f"nuisances: the name {name!r} is taken; choose another")
        variables[name] = checked_labels(values, f"nuisance {name!r}")
    for layer, values in features.items():  # all of them before any long work
        checked(values, variables["label"], what=f"features of layer {layer!r}")
    n = len(variables["label"])
    for name, y in variables.items():
        if len(y) != n:
            raise ValueError(f"samples: expected as many of nuisance {name!r} as labels, got {len(y)} and {n}")
    every = {"input": (input_information, Labels.unique(n))} | {name: (label_information, y) for name, y in variables.items()}
    asked: list[tuple[Estimator, dict[str, Labels]]] = []  # an estimator and all that it is asked, at once
    for name, (estimator, y) in every.items():
        if asked and alike(asked[-1][0], estimator):
            asked[-1][1][name] = y
        elif estimator is not None:
            asked.append((estimator, {name: y}))
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
            "num_null": num_null,
            "num_subsamples": num_subsamples,
            "seed": seed,
            "num_features": (num_varying := int(varying(np.asarray(x)).sum())),
            "num_constant": x.shape[1] - num_varying,
        }
        where = f" information of layer {layer!r}"
        for estimator, ys in asked:
            found = assess_checked(x, ys, estimator, num_null, num_subsamples, key, where=where)
            for name, of_variable in found.items():
                record |= _named(name, of_variable)
        records.append(record)
    return InformationPlane(tuple(records))


def profile(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    estimator: Estimator,
    setting: str,
    values: Sequence[Any],
    *,
    input_axis: bool = True,
    representation: str = "activation",
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> InformationPlane:
    """Both axes at each value of one setting of an estimator: how far a plane depends on a number that is yours to choose.

    `profile(features, labels, KDE(), "noise", (0.01, 0.1, 1.0))`, and so for `num_bins`, `num_neighbors`, `width`, ...
    Features and labels as in `measure_plane`; `input_axis=False` for estimators that need labels that repeat. Records
    carry `representation`, `layer`, `depth`, the setting's value under its name, and the estimates; no null or interval.
    Continuous settings are mapped in one compilation, others compile once a value.

    **Raises:** `ValueError` as `measure_plane`, and for a setting that the estimator does not have.
    """
    names = [f.name for f in fields(estimator)] if is_dataclass(estimator) else []  # pyright: ignore[reportArgumentType]
    if setting not in names or len(values) == 0:
        raise ValueError(
            f"setting, values: expected one of {', '.join(names)} of {type(estimator).__name__} and at least one value, "
            f"got {setting!r} and {list(values)}"
        )
    estimators = [replace(estimator, **{setting: value}) for value in values]  # pyright: ignore[reportArgumentType]
    if not features:
        raise ValueError("features: expected at least one layer, got none")
    y = checked_labels(labels, "labels")
    records = []
    for depth, layer in enumerate(track(tuple(features))):
        what = f"features of layer {layer!r}"
        x, _ = checked(features[layer], y, what=what)
        variables = {"input": Labels.unique(len(y)), "label": y} if input_axis else {"label": y}
        estimates = _sweep(estimators, x, list(variables.values()))
        for value, of_value in zip(values, estimates, strict=True):
            record: Record = {
                "representation": representation,
                "layer": layer,
                "depth": depth,
                setting: value if np.isscalar(value) else repr(value),
            }
            for variable, found in zip(variables, of_value, strict=True):
                record |= _named(variable, describe(found, what))
            records.append(record)
    return InformationPlane(tuple(records))


def _sweep(estimators: Sequence[Any], x: Array, ys: list[Labels]) -> list[list[Estimate]]:
    """The estimates by each of some estimators of one class for each y, mapped where the estimators differ in leaves alone."""
    if len({jax.tree.structure(one) for one in estimators}) > 1 or not jax.tree.leaves(estimators):
        return jax.device_get([_estimates(one, x, ys) for one in estimators])
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(leaves, x.dtype), *estimators)
    found = jax.device_get(_mapped(stacked, x, ys))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(estimators))]


@jax.jit
def _estimates(estimator: Any, x: Array, ys: list[Labels]) -> list[Estimate]:
    return together(estimator, held(estimator, x), ys, jax.random.key(0))


@jax.jit
def _mapped(estimators: Any, x: Array, ys: list[Labels]) -> list[Estimate]:
    shared = held(estimators, x)
    return jax.vmap(lambda one: together(one, shared, ys, jax.random.key(0)))(estimators)


def _named(variable: str, record: Record) -> Record:
    return {f"{variable}_{key}": value for key, value in record.items()}


def _name(estimator: Any) -> str | None:
    return None if estimator is None else repr(estimator)
