"""The independent implementation: torchvision's networks with random weights, and its layouts."""

import importlib
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ports.verify import import_torchvision

torchvision = import_torchvision()
importlib.import_module("torchvision.models.feature_extraction")
timm = importlib.import_module("timm")  # imports torchvision


def network(name: str, *, seed: int = 0, num_classes: int = 1000) -> torch.nn.Module:
    """torchvision's network in evaluation mode, with random weights and random batch-norm statistics."""
    torch.manual_seed(seed)
    model = getattr(torchvision.models, name)(num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 1.2)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False  # else it overwrites the batch norm's output that a hook has seen
    return model.eval()


def save(model: torch.nn.Module, path: Path) -> Path:
    """Writes the state dict in the format of the path's ending."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def layers(model: torch.nn.Module, x: np.ndarray, nodes: dict[str, str]) -> dict[str, np.ndarray]:
    """Values of the nodes of torchvision's feature extraction (node -> name to return it by), channels last."""
    extractor = torchvision.models.feature_extraction.create_feature_extractor(model, nodes)
    with torch.no_grad():
        return {name: to_numpy(value) for name, value in extractor(to_torch(x)).items()}


def to_torch(x: np.ndarray) -> torch.Tensor:
    """NHWC array to NCHW tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def to_numpy(value: torch.Tensor) -> np.ndarray:
    """NCHW tensor to NHWC array; a vector per image stays one."""
    return np.moveaxis(value.detach().numpy(), 1, -1)


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """L2 norm of the difference over that of the reference."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, f"{value.shape} against {reference.shape}"
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))
