"""How parameters are named and laid out elsewhere: one table a source, read in both directions.

A row says how a parameter of an `ipjax.models` network (its dotted path, a pattern) is called in the source's state dict,
and how its array is transformed. Loading and exporting use the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np


@dataclass(frozen=True)
class Transform:
    """`load` from the source's layout to Flax's, `export` back."""

    load: Callable[[np.ndarray], np.ndarray]
    export: Callable[[np.ndarray], np.ndarray]


SAME = Transform(load=lambda w: w, export=lambda w: w)
CONV = Transform(load=lambda w: w.transpose(2, 3, 1, 0), export=lambda w: w.transpose(3, 2, 0, 1))  # OIHW <-> HWIO
DENSE = Transform(load=lambda w: w.T, export=lambda w: w.T)


@dataclass(frozen=True)
class Row:
    target: str
    source: str
    transform: Transform


TORCHVISION_RESNET = (
    Row(r"(.*conv\d|.*downsample\.0)\.kernel", r"\1.weight", CONV),
    Row(r"(.*bn\d|.*downsample\.1)\.scale", r"\1.weight", SAME),
    Row(r"(.*bn\d|.*downsample\.1)\.bias", r"\1.bias", SAME),
    Row(r"(.*bn\d|.*downsample\.1)\.mean", r"\1.running_mean", SAME),
    Row(r"(.*bn\d|.*downsample\.1)\.var", r"\1.running_var", SAME),
    Row(r"fc\.kernel", r"fc.weight", DENSE),
    Row(r"fc\.bias", r"fc.bias", SAME),
)
IGNORED = re.compile(r".*\.num_batches_tracked")  # torch's counter of training steps: nothing in evaluation mode uses it


def load(
    table: Sequence[Row],
    source: Mapping[str, np.ndarray],
    targets: Mapping[str, jax.ShapeDtypeStruct],
    *,
    where: str,
) -> dict[str, np.ndarray]:
    """The array of every target path, from a state dict.

    **Raises:** one `ValueError` that lists every target without a source, every source key without a target, every
    shape that differs and every array with values that are not finite.
    """
    arrays, problems = {}, []
    unused = {key for key in source if not IGNORED.fullmatch(key)}
    for path, target in targets.items():
        row, key = _row(table, path)
        if key not in source:
            problems.append(f"missing: {key}, expected for {path}")
            continue
        unused.discard(key)
        array = np.asarray(source[key], dtype=target.dtype)
        expected = row.transform.export(np.empty(target.shape, np.bool_)).shape
        if array.shape != expected:
            problems.append(f"shape: {key} is {list(array.shape)}, expected {list(expected)}")
        elif not np.isfinite(array).all():
            problems.append(f"not finite: {key} contains NaN or infinity")
        elif path.endswith(".var") and (array < 0).any():
            problems.append(f"negative: {key} is a variance with values below 0")
        else:
            arrays[path] = row.transform.load(array)
    problems += [f"not used: {key}" for key in sorted(unused)]
    if problems:
        raise ValueError(
            f"{where} does not fit this architecture ({len(targets)} arrays expected, {len(source)} found); "
            f"check that the architecture's name is that of the weights. {len(problems)} differences:\n  "
            + "\n  ".join(problems)
        )
    return arrays


def export(table: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of the source's names and layouts, the inverse of `load`."""
    state = {}
    for path, array in arrays.items():
        row, key = _row(table, path)
        state[key] = np.ascontiguousarray(row.transform.export(np.asarray(array)))
    return state


def _row(table: Sequence[Row], path: str) -> tuple[Row, str]:
    matches = [(row, match.expand(row.source)) for row in table if (match := re.fullmatch(row.target, path))]
    if len(matches) != 1:
        raise ValueError(f"parameter {path}: expected one matching row in the table of keys, found {len(matches)}")
    return matches[0]
