"""A run's folder: the settings it was made with, and its files."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from ipjax.files import replacing
from ipjax.store import difference, explained


def prepare(out: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder, or finds it holding a run of the same settings, and writes the settings."""
    # A run that was killed at its very start may have left its part of a file.
    if out.exists() and (not out.is_dir() or any(path.suffix != ".part" for path in out.iterdir())):
        try:
            before = dict(json.loads((out / "config.json").read_text()))
        except (OSError, ValueError, TypeError):
            message = f"out: {out} exists and holds no run of this program, or one whose config.json is damaged"
            raise ValueError(message + "; choose another folder") from None
        if settings != before:
            changes = difference(before, settings)
            raise ValueError(f"out: {out} holds a run with other settings ({changes}); choose another folder")
    with explained(f"could not write to {out}"):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", settings)


def environment(*packages: str) -> dict[str, Any]:
    """What a run computes with."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("ipjax", "jax", "jaxlib", "flax", "numpy", "scikit-learn", *packages)},
        "devices": [str(device) for device in jax.devices()],
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(plain(values), indent=2) + "\n").encode())


def plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))
