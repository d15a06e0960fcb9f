"""Figures of a finished run, from its files alone."""

from __future__ import annotations

from pathlib import Path

from ipjax import InformationPlane
from ipjax.store import explained


def draw(out: Path) -> None:
    """Draws every figure of the records in a run's folder."""
    from ipjax import plotting

    plane, profile, channels = (InformationPlane.load(out / f"{name}.npz") for name in ("plane", "noise_profile", "channels"))
    for name, figure in plotting.figures(plane, profile, channels).items():
        for ending in ("png", "svg"):
            with explained(f"could not write to {out}"):
                figure.savefig(out / f"{name}.{ending}")
