"""Pretrained weights into the networks of `ipjax.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ipjax.models import resnet, vgg
from ipjax.taps import Network, TappingModule
from ports import catalog, hub, keys, readers

DIGITS = {name: Path(__file__).parent / "checkpoints" / f"{name}-digits.safetensors" for name in ("resnet50", "vgg16")}
Model = resnet.ResNet | vgg.VGG
HUB = "hf-hub:"
ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")  # of what is a file even where there is none


@dataclass(frozen=True)
class _Family:
    """`sizes`: keyword of `build` -> path of a one-dimensional parameter of that length."""

    build: Callable[..., Model]
    as_network: Callable[..., Network]
    sizes: Mapping[str, str]


RESNET = _Family(resnet.resnet, resnet.as_network, {"width": "bn1.scale", "num_classes": "fc.bias"})
VGG = _Family(
    vgg.vgg, vgg.as_network, {"width": "features.0.bias", "hidden": "classifier.0.bias", "num_classes": "classifier.6.bias"}
)


def load(
    name: str, weights: str | Path, *, width: int = 64, hidden: int = 4096, num_classes: int = 1000, seed: int = 0
) -> Network:
    """A network with weights, ready for `layer_conductance`.

    **Arguments:**

    - `name`: one of `resnet18`, `34`, `50`, `101`, `152`; `vgg11`, `13`, `16`, `19` and these with `_bn`.
    - `weights`: where they come from:
        - a name of the catalog, torchvision's (`"IMAGENET1K_V1"`) or timm's (`"resnet50.tv_in1k"`), downloaded once;
            `python -m ports list` shows them;
        - the path of a state dict (`.pth`, `.safetensors`, ...) with the keys of torchvision, timm or `python -m ports
            convert`, whose width and number of classes are read off its arrays;
        - `"hf-hub:OWNER/REPOSITORY"`, its `model.safetensors`;
        - `"digits"`, the checkpoint that ships with the project (resnet50, vgg16);
        - `"random"`.
    - `width` (channels of the stem), `hidden` (of a VGG's dense layers), `num_classes`, `seed`: of random weights; not used
        otherwise.

    **Raises:** `KeyError` for an unknown architecture or name of weights, `FileNotFoundError` for a missing file,
    `ValueError` for a file that is damaged or does not fit, listing every difference, `OSError` where a download fails.
    """
    family = _family(name)
    if not isinstance(weights, str | Path) or not str(weights):
        raise ValueError(f"weights: expected a name or a path, got {weights!r}")
    if weights == "random":
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed: expected an integer from 0 to 2³² - 1, got {seed!r}")
        sizes = {"width": width, "hidden": hidden, "num_classes": num_classes}
        if wrong := {size: n for size, n in sizes.items() if isinstance(n, bool) or not isinstance(n, int) or n < 1}:
            raise ValueError(f"{', '.join(wrong)}: expected integers of at least 1, got {', '.join(map(repr, wrong.values()))}")
        return family.as_network(family.build(name, **{size: sizes[size] for size in family.sizes}, rngs=nnx.Rngs(seed)))
    path = locate(name, weights)
    return from_state_dict(name, readers.read(path), where=str(path))


def locate(name: str, weights: str | Path) -> Path:
    """The file of an architecture's weights as named in `load`, downloaded where it has to be."""
    if weights == "digits":
        if name not in DIGITS:
            raise KeyError(f'weights "digits": expected one of {", ".join(DIGITS)}, got {name!r}')
        return DIGITS[name]
    if str(weights).startswith(HUB):
        return hub.fetch_repository(str(weights).removeprefix(HUB))
    if isinstance(weights, Path) or Path(weights).suffix in ENDINGS or Path(weights).exists():
        return Path(weights)
    if len(Path(weights).parts) > 1:
        raise FileNotFoundError(f"weights: found no file {weights}; repositories of the hub are named {HUB}OWNER/REPOSITORY")
    return hub.fetch(catalog.find(name, weights))


def from_state_dict(name: str, source: Mapping[str, np.ndarray], *, where: str = "the state dict") -> Network:
    """A network from a state dict with the keys of torchvision, timm or Flax; errors as those of `load`."""
    family = _family(name)
    rows = keys.table(name, keys.naming_of(source))
    model = nnx.eval_shape(lambda: family.build(name, **_sizes(family, rows, source), rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    leaves = _flatten(state)
    arrays = keys.load(rows, source, {path: leaf.get_value() for path, leaf in leaves.items()}, where=where)
    for path, leaf in leaves.items():
        leaf.set_value(jnp.asarray(arrays.pop(path)))
    return family.as_network(nnx.merge(graph, state))


def export(model: Model | Network, naming: keys.Naming = "torchvision") -> dict[str, np.ndarray]:
    """The parameters of a model, or of a network that `load` made, as a state dict in one of the namings."""
    if isinstance(model, Network):
        model = nnx.merge(model.apply.graph, model.params) if isinstance(model.apply, TappingModule) else model
    if not isinstance(model, Model):
        raise ValueError(f"model: expected a ResNet or VGG of ipjax.models, or a network of one, got {type(model).__name__}")
    arrays = {path: np.asarray(leaf.get_value()) for path, leaf in _flatten(nnx.state(model)).items()}
    return keys.export(keys.table(model.name, naming), arrays)


def _family(name: str) -> _Family:
    if name not in keys.ARCHITECTURES:
        raise KeyError(f"architecture: expected one of {', '.join(keys.ARCHITECTURES)}, got {name!r}")
    return VGG if name in vgg.ARCHITECTURES else RESNET


def _sizes(family: _Family, rows: Sequence[keys.Row], source: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Read off the arrays; a size whose array is missing or odd is left out, for `keys.load` to report."""
    sizes = {}
    for size, path in family.sizes.items():
        _, key = keys.inverse(rows, path)
        if key in source and source[key].ndim == 1 and len(source[key]) > 0:
            sizes[size] = len(source[key])
    return sizes


def _flatten(state: nnx.State) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
