"""How parameters are named and laid out elsewhere: a table for each architecture and naming, read in both directions.

A row says which keys of a state dict it is about, the path of the parameter of the `ipjax.models` network that each of
them fills, and how the array is transformed. Loading and exporting use the same rows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ipjax.models import resnet, vgg

Naming = Literal["torchvision", "timm", "flax"]  # flax: the networks' own paths and layouts
ARCHITECTURES = (*resnet.ARCHITECTURES, *vgg.ARCHITECTURES)


@dataclass(frozen=True)
class Transform:
    """`load` from the source's layout to Flax's, `export` back."""

    load: Callable[[np.ndarray], np.ndarray]
    export: Callable[[np.ndarray], np.ndarray]


def _conv_as_dense(size: int) -> Transform:
    """A convolution [out, channels, size, size] over everything there is, as a dense layer on [size, size, channels]."""
    return Transform(
        load=lambda w: w.transpose(2, 3, 1, 0).reshape(-1, len(w)),
        export=lambda w: w.reshape(size, size, -1, w.shape[1]).transpose(3, 2, 0, 1),
    )


def _dense_of_flattened(size: int) -> Transform:
    """A dense layer on flattened [channels, size, size], where Flax flattens [size, size, channels]."""
    conv = _conv_as_dense(size)
    return Transform(
        load=lambda w: conv.load(w.reshape(len(w), -1, size, size)),
        export=lambda w: conv.export(w).reshape(w.shape[1], -1),
    )


SAME = Transform(load=lambda w: w, export=lambda w: w)
CONV = Transform(load=lambda w: w.transpose(2, 3, 1, 0), export=lambda w: w.transpose(3, 2, 0, 1))  # OIHW <-> HWIO
DENSE = Transform(load=lambda w: w.T, export=lambda w: w.T)
FLATTENED = _dense_of_flattened(vgg.POOLED)


@dataclass(frozen=True)
class Row:
    """`source` key <-> `target` path. A `{}` in both stands for the name of a module, one that `modules` matches."""

    source: str
    target: str
    transform: Transform = SAME
    modules: str = ""

    def target_of(self, key: str) -> str | None:
        """The path that a key fills; `None` for keys of other rows."""
        return _translate(key, self.source, self.target, self.modules)

    def source_of(self, path: str) -> str | None:
        """The key that fills a path; `None` for paths of other rows."""
        return _translate(path, self.target, self.source, self.modules)


def _translate(name: str, pattern: str, template: str, modules: str) -> str | None:
    match = re.fullmatch(re.escape(pattern).replace(r"\{\}", f"({modules})"), name)
    return match and template.format(*match.groups())


def _norm(modules: str) -> tuple[Row, ...]:
    return (
        Row("{}.weight", "{}.scale", SAME, modules),
        Row("{}.bias", "{}.bias", SAME, modules),
        Row("{}.running_mean", "{}.mean", SAME, modules),
        Row("{}.running_var", "{}.var", SAME, modules),
    )


def _dense(source: str, target: str, transform: Transform = DENSE) -> tuple[Row, ...]:
    return Row(f"{source}.weight", f"{target}.kernel", transform), Row(f"{source}.bias", f"{target}.bias")


RESNET = (
    Row("{}.weight", "{}.kernel", CONV, r"(?:.*\.)?conv\d|.*\.downsample\.0"),
    *_norm(r"(?:.*\.)?bn\d|.*\.downsample\.1"),
    *_dense("fc", "fc"),
)
VGG_CLASSIFIER = {
    "torchvision": (
        *_dense("classifier.0", "classifier.0", FLATTENED),
        *_dense("classifier.3", "classifier.3"),
        *_dense("classifier.6", "classifier.6"),
    ),
    "timm": (
        *_dense("pre_logits.fc1", "classifier.0", _conv_as_dense(vgg.POOLED)),
        *_dense("pre_logits.fc2", "classifier.3", _conv_as_dense(1)),
        *_dense("head.fc", "classifier.6"),
    ),
}
FLAX = (Row("{}", "{}", SAME, ".*"),)
IGNORED = re.compile(r".*\.num_batches_tracked")  # torch's counter of training steps: nothing in evaluation mode uses it


def table(name: str, naming: Naming) -> tuple[Row, ...]:
    """The rows of an architecture in one naming."""
    if naming == "flax":
        return FLAX
    if name in resnet.ARCHITECTURES:
        return RESNET  # timm's names are torchvision's
    convolutions, norms = ("|".join(map(re.escape, modules)) for modules in _vgg_modules(name))
    features = (Row("{}.weight", "{}.kernel", CONV, convolutions), Row("{}.bias", "{}.bias", SAME, convolutions))
    return (*features, *(_norm(norms) if norms else ()), *VGG_CLASSIFIER[naming])


@functools.cache
def _vgg_modules(name: str) -> tuple[list[str], list[str]]:
    """Names of the convolutions and of the normalisations, which in a VGG's state dict are told apart by number alone."""
    modules = nnx.eval_shape(lambda: vgg.vgg(name, width=1, hidden=1, num_classes=1, rngs=nnx.Rngs(0))).features
    names: tuple[list[str], list[str]] = ([], [])
    for i, module in enumerate(modules):
        if isinstance(module, nnx.Conv | nnx.BatchNorm):
            names[isinstance(module, nnx.BatchNorm)].append(f"features.{i}")
    return names


def naming_of(source: Mapping[str, np.ndarray]) -> Naming:
    """The naming of a state dict's keys."""
    if any(key.endswith(".kernel") for key in source):
        return "flax"
    return "timm" if any(key.startswith(("pre_logits.", "head.")) for key in source) else "torchvision"


def recognise(source: Mapping[str, np.ndarray]) -> str | None:
    """The architecture whose modules a state dict has, in any naming; `None` where it is none of `ARCHITECTURES`."""
    blocks = {match.groups() for key in source if (match := re.match(r"layer(\d)\.(\d+)\.", key))}
    depths = tuple(sum(stage == str(i + 1) for stage, _ in blocks) for i in range(4))
    bottleneck = any(".conv3." in key for key in source)
    for name, architecture in resnet.ARCHITECTURES.items():
        if (depths, bottleneck) == (architecture.blocks, architecture.bottleneck):
            return name
    features = {key: array.ndim for key, array in source.items() if key.startswith("features.")}
    convolutions = {key.rpartition(".")[0] for key, ndim in features.items() if ndim == 4}
    norms = {key.rpartition(".")[0] for key in features if key.endswith(("mean", "var"))}
    return next((name for name in vgg.ARCHITECTURES if (convolutions, norms) == tuple(map(set, _vgg_modules(name)))), None)


def load(
    rows: Sequence[Row],
    source: Mapping[str, np.ndarray],
    targets: Mapping[str, jax.ShapeDtypeStruct],
    *,
    where: str,
) -> dict[str, np.ndarray]:
    """The array of every target path, from a state dict.

    **Raises:** one `ValueError` that lists every key that no row or more than one row fits, every target that no key or
    more than one key fills, every shape that differs and every array of other values than finite numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    problems = []
    filled: dict[str, str] = {}
    for key, array in source.items():
        if IGNORED.fullmatch(key):
            continue
        fitting = [(row, path) for row in rows if (path := row.target_of(key)) is not None]
        if len(fitting) > 1:
            problems.append(f"ambiguous: {key} fits {len(fitting)} rows, for {', '.join(path for _, path in fitting)}")
            continue
        if not fitting or fitting[0][1] not in targets:
            problems.append(f"not used: {key}")
            continue
        ((row, path),) = fitting
        if path in filled:
            problems.append(f"twice: {filled[path]} and {key} both fill {path}")
            continue
        filled[path] = key
        target = targets[path]
        expected = row.transform.export(np.broadcast_to(False, target.shape)).shape
        if array.shape != expected:
            problems.append(f"shape: {key} is {list(array.shape)}, expected {list(expected)}")
            continue
        if not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"dtype: {key} is {array.dtype}, expected floating numbers")
            continue
        with np.errstate(over="ignore"):
            array = np.asarray(array, dtype=target.dtype)
        if not np.isfinite(array).all():
            problems.append(f"not finite: {key} contains NaN or infinity as {target.dtype}")
        elif path.endswith(".var") and (array < 0).any():
            problems.append(f"negative: {key} is a variance with values below 0")
        else:
            arrays[path] = row.transform.load(array)
    problems += [f"missing: {inverse(rows, path)[1]}, expected for {path}" for path in targets if path not in filled]
    if problems:
        looks = recognise(source)
        hint = f"; its keys look like those of {looks}" if looks else ""
        raise ValueError(
            f"{where} does not fit this architecture ({len(targets)} arrays expected, {len(source)} found); "
            f"check that the architecture's name is that of the weights{hint}. {len(problems)} differences:\n  "
            + "\n  ".join(problems)
        )
    return arrays


def export(rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict in the naming and layouts of the rows, the inverse of `load`."""
    state = {}
    for path, array in arrays.items():
        row, key = inverse(rows, path)
        state[key] = np.ascontiguousarray(row.transform.export(array))
    return state


def inverse(rows: Sequence[Row], path: str) -> tuple[Row, str]:
    """The row of a target path and the key that fills it."""
    matches = [(row, key) for row in rows if (key := row.source_of(path)) is not None]
    if len(matches) != 1:
        raise ValueError(f"parameter {path}: expected one matching row in the table of keys, found {len(matches)}")
    return matches[0]
