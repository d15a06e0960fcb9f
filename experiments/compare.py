"""Puts finished runs side by side on one page: planes, ITE, leak, losses, settings that differ.

python -m experiments.compare RUN RUN ...
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from experiments.console import errors_shown, say, warn
from ipjax.files import replacing
from ipjax.report import Run, compare
from ipjax.report.comparison import warnings


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of finished runs, two or more"""
    out: Path = Path("compare.html")
    """file that the page is written to"""


def main(config: Config) -> Path:
    """Writes the page; returns its path."""
    runs = [Run.load(folder, pictures=False) for folder in config.runs]
    repeated = Counter(run.name for run in runs)  # folders of one name in several places
    runs = [
        replace(run, name=str(path)) if repeated[run.name] > 1 else run for run, path in zip(runs, config.runs, strict=True)
    ]
    page = compare(runs)
    for warning in warnings(runs):
        warn(f"{warning.text} ({warning.evidence})")
    with replacing(config.out) as file:
        file.write(page.encode())
    say(f"{config.out} ({len(page) / 1e6:.1f} MB)")
    return config.out


if __name__ == "__main__":
    settings = tyro.cli(Config, description=sys.modules["__main__"].__doc__)
    with errors_shown(stopped="nothing was written"):
        main(settings)
