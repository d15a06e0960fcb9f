"""What a page is made from: a run's records, settings and pictures, read from the folder it wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ipjax import files
from ipjax.files import Record

RECORDS = {
    "plane": "plane.npz",
    "second": "second.npz",
    "profile": "noise_profile.npz",
    "channels": "channels.npz",
    "ablation": "ablation.npz",
    "areas": "ablation_areas.npz",
    "rankings": "rankings.npz",
    "theory": "theory.npz",
}
COLUMNS = {
    "plane": ("layer", "representation"),
    "second": ("layer", "label_estimator"),
    "profile": ("layer", "noise"),
    "channels": ("layer", "channel"),
    "ablation": ("layer", "kind"),
    "areas": ("layer", "curve"),
    "rankings": ("loss", "score"),
    "theory": ("claim", "verdict"),
}
PICTURES = {name: f"{name}.png" for name in ("attribution", "attribution_channels")}
_WIDEST = 2400  # pixels of a picture in the page


@dataclass(frozen=True)
class Run:
    """A finished run. Only `plane` is needed; what is empty was not measured, and its section says so.

    **Attributes:**

    - `name`: what the page calls the run.
    - `plane`: records of `measure_plane`, with ITE, leak and completeness gap where they were measured.
    - `second`: records of `measure_plane` by another family of estimators.
    - `profile`, `channels`: records of `profile` over the noise and of `measure_channels`.
    - `ablation`, `areas`, `rankings`, `theory`: records of the knock-outs, of the areas under their curves, of how well scores
        of the layers predict them, and of the checks of the theory.
    - `config`, `environment`: settings that decide about the numbers; versions, devices, accuracy.
    - `pictures`: name -> WebP bytes.
    """

    name: str
    plane: tuple[Record, ...]
    second: tuple[Record, ...] = ()
    profile: tuple[Record, ...] = ()
    channels: tuple[Record, ...] = ()
    ablation: tuple[Record, ...] = ()
    areas: tuple[Record, ...] = ()
    rankings: tuple[Record, ...] = ()
    theory: tuple[Record, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(record.get("label_information") is not None for record in self.plane):
            raise ValueError(f"{self.name}: expected records of measure_plane with label information, got none")

    @staticmethod
    def load(folder: str | Path, *, pictures: bool = True) -> Run:
        """The run in a folder; files that it lacks, but for the plane and the settings, count as not measured.

        **Arguments:**

        - `pictures`: whether to read them too.

        **Raises:** `FileNotFoundError` for a folder that holds no finished run, `ValueError` for a damaged file.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"expected the folder of a finished run, found none at {folder}")
        needed = ("config.json", "environment.json", RECORDS["plane"])
        if missing := [name for name in needed if not (folder / name).is_file()]:
            begun = (folder / "config.json").is_file()
            todo = (
                f"start its command again with --out {folder} to finish it" if begun else "give the folder that a run wrote to"
            )
            raise FileNotFoundError(f"{folder} holds no finished run ({', '.join(missing)} missing); {todo}")
        records = {key: files.load(folder / name) for key, name in RECORDS.items() if (folder / name).is_file()}
        for key, found in records.items():
            if found and (lacking := [name for name in COLUMNS[key] if name not in found[0]]):
                raise ValueError(
                    f"{folder / RECORDS[key]} holds other records: expected a column {' and one '.join(lacking)}; run it again"
                )
        drawn = {key: folder / name for key, name in PICTURES.items() if pictures and (folder / name).is_file()}
        return Run(
            name=folder.resolve().name,
            config=_json(folder / "config.json"),
            environment=_json(folder / "environment.json"),
            pictures={key: _picture(path) for key, path in drawn.items()},
            **records,
        )

    @property
    def noise(self) -> float | None:
        """The noise level of the plane's estimator, where one was set."""
        return self.config.get("noise")

    @property
    def num_images(self) -> int:
        """How many images the plane was measured on."""
        return int(self.plane[0].get("num_samples") or 0)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run the same command again in another folder") from None


def _picture(path: Path) -> bytes:
    """As WebP, which takes a fraction of the space of PNG, at most `_WIDEST` pixels wide."""
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is no picture, or is damaged ({error}); draw it again") from None
    image.thumbnail((_WIDEST, 4 * _WIDEST))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=88, method=4)
    return data.getvalue()
