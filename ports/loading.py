"""Pretrained weights into the networks of `ipjax.models`."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ipjax.models.resnet import ARCHITECTURES, ResNet, as_network, resnet
from ipjax.taps import Network
from ports import keys, readers

DIGITS = {"resnet50": Path(__file__).parent / "checkpoints" / "resnet50-digits.safetensors"}


def load(name: str, weights: str | Path, *, width: int = 64, num_classes: int = 1000, seed: int = 0) -> Network:
    """A network with weights, ready for `layer_conductance`.

    **Arguments:**

    - `name`: `resnet18`, `resnet34`, `resnet50`, `resnet101` or `resnet152`.
    - `weights`: the path of a torchvision state dict (`.safetensors`, `.pth`, `.pt`), whose width and number of classes
        are read off its arrays; `"digits"`, the checkpoint that ships with the project (resnet50); or `"random"`.
    - `width`, `num_classes`, `seed`: of random weights; not used otherwise.

    **Raises:** `KeyError` for an unknown architecture, `FileNotFoundError` for a missing file, `ValueError` for a file
    that is damaged or does not fit, listing every difference.
    """
    if name not in ARCHITECTURES:
        raise KeyError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {name!r}")
    if width < 1 or num_classes < 1:
        raise ValueError(f"width, num_classes: expected at least 1, got {width}, {num_classes}")
    if weights == "random":
        return as_network(resnet(name, width=width, num_classes=num_classes, rngs=nnx.Rngs(seed)))
    if weights == "digits":
        if name not in DIGITS:
            raise KeyError(f'weights "digits": expected one of {", ".join(DIGITS)}, got {name!r}')
        weights = DIGITS[name]
    source = readers.read(Path(weights))
    width, num_classes = _length(source, "conv1.weight", width), _length(source, "fc.weight", num_classes)
    model = nnx.eval_shape(lambda: resnet(name, width=width, num_classes=num_classes, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    targets = _flatten(state)
    arrays = keys.load(
        keys.TORCHVISION_RESNET, source, {path: leaf.get_value() for path, leaf in targets.items()}, where=str(weights)
    )
    for path, leaf in targets.items():
        leaf.set_value(jnp.asarray(arrays[path]))
    return as_network(nnx.merge(graph, state))


def export(model: ResNet) -> dict[str, np.ndarray]:
    """The model's parameters as a torchvision state dict."""
    arrays = {path: np.asarray(leaf.get_value()) for path, leaf in _flatten(nnx.state(model)).items()}
    return keys.export(keys.TORCHVISION_RESNET, arrays)


def _flatten(state: nnx.State) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def _length(source: dict[str, np.ndarray], key: str, otherwise: int) -> int:
    if key not in source or source[key].ndim == 0:
        return otherwise
    if len(source[key]) == 0:
        raise ValueError(f"weights: expected {key} to hold something, got shape {list(source[key].shape)}")
    return len(source[key])
