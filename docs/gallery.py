"""Copies the figures of finished runs into the documents, made smaller, and writes the page that shows them.

    python -m docs.gallery runs/resnet runs/vgg runs/training

The first run's figures go to docs/figures, where the README and other pages show them, those of each further run into a folder
of its own in there. A figure without a caption here is refused: write one.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from experiments.console import errors_shown, say
from ipjax.files import replacing

LARGEST = 300_000  # bytes of a figure
CAPTIONS = {
    "information_plane": "**Information planes**, a panel a representation. Light points are early layers, dark ones late; "
    "bars are 95 % intervals, grey is what shuffled labels give. Below, what the estimator guarantees.",
    "ite": "**Information Transformation Efficiency** by layer: the share of what is kept that is about the label; dotted with "
    "shuffled labels. Below, how much label information the choice of the predicted class adds.",
    "kept_and_dropped": "**Kept and dropped**: information about the label and about nuisances of known value, above the null.",
    "channels": "**Single channels**: what each tells about the label, and how few of them hold half of it.",
    "noise_profile": "**Noise profile**: both axes at other levels of noise; dashed, the ceilings.",
    "ablation": "**Ablation**: what the network loses without a block, and without the channels that a ranking puts first.",
    "rankings": "**Do scores predict the loss?** Rank correlations of the layers' scores with what the network loses "
    "without them, and what is left of them beyond depth.",
    "theory": "**Theory checks**: which predictions of the information bottleneck hold, by representation and estimator.",
    "attribution": "**Where in the image**: integrated gradients and layer conductance of typical images; red raises "
    "the target, blue lowers it.",
    "attribution_channels": "**Where single channels act**: the conductance of one channel of each layer.",
}
OF_TRAINING = {
    "plane_": "**The plane through training** by {}: the layers after an epoch are joined and coloured by it.",
    "phases_": "**Input information through training** by {}: fitting, and compression where there is any.",
}


@dataclass(frozen=True)
class Config:
    """Settings of the gallery."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of finished runs"""
    docs: Path = Path(__file__).parent
    """folder of the documents"""


def main(config: Config) -> Path:
    """Writes the figures and gallery.md; returns the page's path."""
    if not config.runs:
        raise ValueError("runs: expected the folder of at least one finished run, got none")
    figures = {run: _figures(run) for run in config.runs}
    titles = {run: _title(run) for run in config.runs}
    if len(set(titles.values())) < len(titles):
        raise ValueError(f"runs: expected runs of different networks or data, got {', '.join(titles.values())}")
    page = [
        "# Gallery\n",
        "Figures of finished runs, made by `python -m docs.gallery`. [Read a report](read_a_report.md) explains them.\n",
    ]
    for i, (run, paths) in enumerate(figures.items()):
        folder = "figures" if i == 0 else f"figures/{_slug(titles[run])}"
        (config.docs / folder).mkdir(parents=True, exist_ok=True)
        page.append(f"## {titles[run]}\n")
        for path in paths:
            with replacing(config.docs / folder / path.name) as file:
                file.write(smaller(path))
            caption = caption_of(path.stem)
            page += [f"{caption}\n", f"![{_plain(caption)}]({folder}/{path.name})\n"]
    with replacing(config.docs / "gallery.md") as file:
        file.write("\n".join(page).encode())
    say(f"{sum(map(len, figures.values()))} figures in {config.docs / 'gallery.md'}")
    return config.docs / "gallery.md"


def caption_of(name: str) -> str:
    """What the figure of this name shows. Raises `ValueError` for a name that is not known."""
    for prefix, caption in OF_TRAINING.items():
        if name.startswith(prefix) and name != prefix:
            return caption.format(name.removeprefix(prefix).replace("_", " "))
    if name not in CAPTIONS:
        raise ValueError(f"figure {name}.png: expected one of {', '.join(CAPTIONS)}; give it a caption in docs/gallery.py")
    return CAPTIONS[name]


def smaller(path: Path) -> bytes:
    """A PNG of at most `LARGEST` bytes: as it is, or with 256 colours, or narrower as well."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    drawn, width = image, image.width
    while True:
        file = io.BytesIO()
        drawn.save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST:
            return file.getvalue()
        width = width if drawn is image else int(0.9 * width)
        narrower = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        drawn = narrower.quantize(256, kmeans=3)


def _figures(run: Path) -> list[Path]:
    """The run's figures in the order of the captions, then of their names."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: expected the folder of a finished run, found none")
    paths = sorted(run.glob("*.png"))
    if not paths:
        raise FileNotFoundError(f"{run}: expected figures, .png, found none; let the run finish")
    for path in paths:
        caption_of(path.stem)
    order = list(CAPTIONS)
    return sorted(paths, key=lambda path: order.index(path.stem) if path.stem in order else len(order))


def _title(run: Path) -> str:
    """Of the run's settings: network and data."""
    path = run / "config.json"
    try:
        settings: dict[str, Any] = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(f"{path}: expected the settings of a finished run, found none that can be read") from None
    if "networks" in settings:
        return f"Training: {', '.join(settings['networks'])}"
    data = "digits in clutter" if settings["data"] == "digits" and settings["clutter"] else Path(settings["data"]).name
    return f"{settings['network']} ({Path(settings['weights']).name}) on {data}"


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_").replace("__", "_")


def _plain(caption: str) -> str:
    return caption.split("**")[1]


if __name__ == "__main__":
    settings = tyro.cli(Config, description=sys.modules["__main__"].__doc__)
    with errors_shown(stopped="start again"):
        main(settings)
