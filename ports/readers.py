"""State dicts from files: `.safetensors` without torch, `.pth` through torch's weights-only loader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a weights file by name.

    **Raises:** `FileNotFoundError` where there is none; `ValueError` for another ending, a truncated or damaged file,
    or a file that holds anything but a flat state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file: expected a file at {path}, found {'a folder' if path.is_dir() else 'nothing'}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt"):
        return _read_pth(path)
    raise ValueError(f"weights file: expected the ending .safetensors, .pth or .pt, got {path.name!r}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, TypeError) as error:
        raise _damaged(path, error) from error


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"reading {path.name} needs torch; install torch, or convert the file to .safetensors") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise _damaged(path, error) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ValueError(
            f"{path} holds {type(state).__name__} that is not a state dict of tensors; "
            "save model.state_dict() alone, without optimizer state or settings around it"
        )
    return {key: value.detach().to(torch.float32).numpy() for key, value in state.items()}


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} ({path.stat().st_size:,} bytes) cannot be read as a weights file: it is truncated, damaged or of another "
        f"format; download or save it again ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    )
