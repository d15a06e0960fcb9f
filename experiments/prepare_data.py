"""Prepares an image data set with TensorFlow Datasets, once; the experiments then read it without TensorFlow.

    python -m experiments.prepare_data imagenet2012 --manual-dir DIR
    python -m experiments.prepare_data imagenette
    python -m experiments.prepare_data imagenet_v2

imagenet2012 is built from ILSVRC2012_img_val.tar, and from ILSVRC2012_img_train.tar where that lies beside it; the others
are downloaded. A preparation that was interrupted is started again by the same command. See docs/preparing_imagenet.md.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.console import errors_shown, say
from ipjax.data.tfds import SPLITS, open_builder


@dataclass(frozen=True)
class Config:
    """What to prepare, and where."""

    name: Annotated[Literal["imagenet2012", "imagenette", "imagenet_v2"], tyro.conf.Positional]
    manual_dir: Path | None = None
    """of imagenet2012: the folder that holds its tars"""
    data_dir: Path | None = None
    """where the data set goes; default: TFDS_DATA_DIR or ~/tensorflow_datasets"""


def main(config: Config) -> Path:
    """Prepares the data set unless it is there; returns its folder."""
    configured, split = SPLITS[config.name]
    builder = open_builder(configured, config.data_dir)
    folder = Path(builder.data_path)
    if builder.info.splits:
        if split not in builder.info.splits:
            found = ", ".join(builder.info.splits)
            raise ValueError(f"{folder}: expected the split {split}, found {found}; delete this folder and prepare again")
        say(f"{config.name} is prepared already, in {folder}")
        return folder
    if config.name == "imagenet2012":
        _check_tars(config.manual_dir)
    if find_spec("tensorflow") is None:
        raise ValueError("preparing needs TensorFlow (reading does not): pip install -e '.[prepare]'")
    for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
        message = f"{left} is left from a preparation that was interrupted; delete it, unless another one is running"
        say(message)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    manual_dir = None if config.manual_dir is None else str(config.manual_dir.expanduser())
    settings = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=settings)
    except tarfile.TarError as error:
        raise ValueError(f"a tar is damaged or was not downloaded whole ({error}); check its MD5 and get it again") from error
    say(f"{config.name} is prepared, in {folder}")
    return folder


def _check_tars(manual_dir: Path | None) -> None:
    tar = "ILSVRC2012_img_val.tar"
    if manual_dir is None:
        raise ValueError(f"manual_dir: imagenet2012 needs the folder that holds {tar}; give it by --manual-dir")
    folder = manual_dir.expanduser()
    if not (folder / tar).is_file():
        there = sorted(path.name for path in folder.glob("*.tar")) if folder.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"expected {folder / tar}, found {there or 'no tar'}. Register at https://image-net.org/download-images, download "
            f"the validation images of ILSVRC2012 (6.3 GB) and put the tar there, unchanged"
        )


def command_line() -> None:
    """Runs `main` with settings from the command line; an error that the user can mend is printed without a traceback."""
    config = tyro.cli(Config, description=__doc__)
    with errors_shown(stopped="the same command starts again"):
        main(config)


if __name__ == "__main__":
    command_line()
