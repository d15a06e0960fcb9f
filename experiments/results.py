"""What a run writes of its measurements, and the figures that are drawn from these files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ipjax import InformationPlane, ablation, bottleneck, files
from ipjax.attribution import Attribution
from ipjax.files import Record
from ipjax.store import explained

TOP_CHANNELS = 10  # of a layer, listed in channels.csv


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    **Attributes:**

    - `plane`, `second`: by the estimators of the planes, and by another family.
    - `losses`, `rankings`: of the ablation; empty where there was none.
    - `before`: layer -> the layer that it is a function of alone.
    """

    plane: InformationPlane
    second: InformationPlane
    profile: InformationPlane
    channels: InformationPlane
    losses: tuple[Record, ...]
    rankings: tuple[Record, ...]
    before: Mapping[str, str | None]
    attribution: Attribution

    def write(self, out: Path) -> None:
        """Writes the records as arrays and as tables."""
        records = self.plane.records
        self.plane.save(out / "plane.npz")
        self.second.save(out / "second.npz")
        files.to_csv((*records, *self.second.records), out / "layers.csv")
        self.profile.save(out / "noise_profile.npz")
        self.channels.save(out / "channels.npz")
        files.to_csv([r for r in self.channels.records if r["rank"] <= TOP_CHANNELS], out / "channels.csv")
        of_both_axes = [r for r in (*records, *self.second.records) if r["input_estimator"] is not None]
        claimed = InformationPlane(tuple(of_both_axes))
        tables = {"theory": bottleneck.check(claimed, self.before), "theory_steps": bottleneck.steps(claimed, self.before)}
        if self.losses:
            ranked = {record["layer"] for record in self.losses if record["ranking"] not in (None, ablation.RANDOM)}
            areas = ablation.areas([record for record in self.losses if record["layer"] in ranked])
            tables |= {"ablation": self.losses, "ablation_areas": areas, "rankings": self.rankings}
        for name, table in tables.items():
            files.save(table, out / f"{name}.npz")
            files.to_csv(table, out / f"{name}.csv")
        self.attribution.save(out / "attribution.npz")


def draw(out: Path) -> None:
    """Draws every figure of a run from the files in its folder; those of an ablation if there was one."""
    from ipjax import plotting
    from ipjax.plotting.style import save

    planes = (InformationPlane.load(out / f"{name}.npz") for name in ("plane", "noise_profile", "channels"))
    drawn = plotting.planes.figures(*planes)
    drawn |= plotting.theory.figures(files.load(out / "theory.npz"), files.load(out / "theory_steps.npz"))
    if (out / "ablation.npz").exists():
        tables = (files.load(out / f"{name}.npz") for name in ("ablation", "ablation_areas", "rankings"))
        drawn |= plotting.ablation.figures(*tables)
    # Of pixels, so that a vector format only makes them larger.
    pictures = plotting.attribution.figures(Attribution.load(out / "attribution.npz"))
    for name, figure in (drawn | pictures).items():
        with explained(f"could not write to {out}"):
            save(figure, out / name, ("png",) if name in pictures else ("png", "svg"))
