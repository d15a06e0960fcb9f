"""Every layer of a network against torchvision's network with the same weights, for `python -m ports verify`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import numpy as np

from ipjax.taps import Network
from ports import loading


def layer_errors(name: str, net: Network, *, size: int = 224, seed: int = 0) -> dict[str, float]:
    """Relative error of every layer, `||ours - torchvision's|| / ||torchvision's||`, on one random image.

    **Raises:** `ValueError` where torch and torchvision are not installed, or torchvision has no network of these sizes.
    """
    try:
        import torch

        torchvision = import_torchvision()
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"verify: expected torch and torchvision to be installed; importing them failed: {error}") from error
    state = {key: torch.from_numpy(np.array(array)) for key, array in loading.export(net).items()}
    x = np.random.default_rng(seed).standard_normal((1, size, size, 3), np.float32)
    model = getattr(torchvision.models, name)(num_classes=net.logits_shape(x).shape[1]).eval()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"verify: torchvision's {name} does not take these weights: {error}") from error
    _, ours = jax.jit(lambda net, x: net.activations(x, "all"))(net, x)
    theirs = _outputs(model, torch.from_numpy(x.transpose(0, 3, 1, 2)))
    return {layer: _relative_error(ours[layer], theirs[layer]) for layer in net.layers(x, "all") if layer != "input"}


def import_torchvision() -> Any:
    """torchvision, also beside a CPU build of torch, for which its compiled operators do not load."""
    import torch

    try:
        import torchvision
    except RuntimeError:  # the import looks up the schemas of two operators
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision.__dict__["_operators"] = library  # the operators live as long as this object
    return torchvision


def _outputs(model: Any, x: Any) -> dict[str, np.ndarray]:
    """What every module of a torch model returned, channels last; a module's further calls are numbered."""
    import torch

    values: dict[str, np.ndarray] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, value: Any) -> None:
        values[f"{name}_{calls[name]}" if calls[name] else name] = value.numpy(force=True).copy()  # ReLUs work in place
        calls[name] += 1

    for name, module in model.named_modules():
        module.register_forward_hook(lambda _module, _arguments, value, name=name: keep(name, value))
    with torch.no_grad():
        model(x)
    return {name: np.moveaxis(value, 1, -1) for name, value in values.items()}


def _relative_error(ours: Any, theirs: np.ndarray) -> float:
    difference = np.asarray(ours, np.float64).ravel() - theirs.astype(np.float64).ravel()
    return float(np.linalg.norm(difference) / np.linalg.norm(theirs.astype(np.float64)))
