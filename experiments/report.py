"""Draws the figures and the page of a finished run again, from its files alone.

python -m experiments.report RUN
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.console import errors_shown, say, warn
from experiments.results import draw
from ipjax.files import replacing
from ipjax.report import Run, build


@dataclass(frozen=True)
class Config:
    """Settings of the report."""

    run: tyro.conf.Positional[Path]
    """folder of a finished run"""


def main(config: Config) -> Path:
    """Writes the figures and report.html into the run's folder; returns the page's path."""
    Run.load(config.run, pictures=False)  # whose errors say more than the figures'; damaged pictures are drawn again
    try:
        draw(config.run)
    except FileNotFoundError as error:
        warn(f"the figures are left as they are, a run of an older version lacks what they need ({error})")
    page = write(config.run)
    say(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
    return page


def write(folder: Path) -> Path:
    """report.html, from the files of a finished run."""
    page = folder / "report.html"
    with replacing(page) as file:
        file.write(build(Run.load(folder)).encode())
    return page


if __name__ == "__main__":
    settings = tyro.cli(Config, description=sys.modules["__main__"].__doc__)
    with errors_shown(stopped="the run's own records are as they were"):
        main(settings)
