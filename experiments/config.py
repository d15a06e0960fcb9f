"""What the image experiments let a user choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
from tyro.conf import DisallowNone

LEAST = 50  # images
HOW = ("out", "data_dir", "batch_size", "num_workers", "compiled", "distributed", "coordinator", "num_processes", "process_id")
"""Settings of how and where a run computes; all others decide about its numbers."""


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    network: str = "resnet50"
    """architecture: resnet18, 34, 50, 101, 152; vgg11, 13, 16, 19 and these with _bn"""
    weights: str = "digits"
    """digits (the checkpoint that ships with the project), random, a name that python -m ports list shows, or a file"""
    data: str = "digits"
    """digits (scikit-learn's, placed in clutter, from the half that the checkpoint never saw); imagenet2012, imagenet_v2 or
    imagenette, once prepared by python -m experiments.prepare_data; or a folder: one of images a class, or images and a table
    of their labels"""
    data_dir: Path | None = None
    """where the prepared data sets are; default: TFDS_DATA_DIR or ~/tensorflow_datasets"""
    num_images: int | None = None
    """images to analyse, of each class its share; default: all, but at most 10,000. Of more than 899 digits some occur twice,
    drawn in another place"""
    min_per_class: int = 1
    """images that every class has at least, or all of its own"""
    clutter: float = 1.0
    """of the digits, from 0 (plain, centred) to 1"""
    resize: int | None = None
    """pixels of the short side of an image file before the crop; default: as the weights were evaluated"""
    crop: int | None = None
    """side of the central square of an image file; default: as the weights were evaluated"""
    num_steps: int | None = None
    """steps of the path integral from the baseline (a zero image) to the image; default: 16, or what tolerance asks for"""
    tolerance: float | None = None
    """largest relative error of any layer's conductances, as 0.02: from the first 16 images as many steps are chosen as are
    estimated to keep it, mean over images, of the features; instead of num_steps"""
    layers: tuple[str, ...] | None = None
    """layers by name, or all; default: input, stem, every block, pooled features"""
    readout: Literal["sketch", "channel"] = "sketch"
    """features of a layer: a count sketch of all its units in 512 numbers, which keeps where things are, or one a channel"""
    noise: float = 0.1
    """of the KDE estimator: noise variance over the layer's median squared pairwise distance"""
    ablation: DisallowNone[bool | None] = None
    """knock out blocks and channels and measure what the network loses; default: for digits alone"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the network's parameters and activations; sums over the path and all that follows are float32"""
    precision: Literal["highest", "high", "default"] = "highest"
    """of the network's matrix products in float32: accelerators use fewer bits by default; estimators use highest"""
    shard_size: int = 64
    """images that are read, and whose features are written to out/features, together: what a killed run loses at most. At least
    one shard for each host. The random classes that the leak is compared with are shuffled within a shard: 16 or more"""
    seed: int = 0
    """of the images, the sketch, the contrast direction, shuffles and subsamples, and of random weights"""
    out: Path | None = None
    """folder of the results, and of what an interrupted run goes on from; default: runs/<experiment>-<time>"""
    batch_size: int | None = None
    """images evaluated together on a host; default: by the devices' memory"""
    num_workers: int = 0
    """processes that decode image files; 0: threads of this one. For machines of many cores that wait for images"""
    compiled: Path | None = Path(platformdirs.user_cache_dir("ipjax")) / "compiled"
    """folder that keeps compiled code for later runs, or None"""
    distributed: bool = False
    """several hosts, on each of which the same command runs; their out may be one folder that all see, or each host's own"""
    coordinator: str | None = None
    """address:port of the first of several hosts; found by itself on Cloud TPU, Slurm, Open MPI and Kubernetes, as are:"""
    num_processes: int | None = None
    """how many hosts there are"""
    process_id: int | None = None
    """which one this is, from 0"""

    @property
    def steps(self) -> int:
        """Of the path, where no tolerance chooses them."""
        return 16 if self.num_steps is None else self.num_steps


def check(config: Config) -> None:
    """Raises `ValueError` for settings that make no sense, before any work."""
    for name in ("num_images", "num_steps", "batch_size", "shard_size", "resize", "crop", "num_processes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    for name in ("min_per_class", "num_workers", "process_id"):
        value = getattr(config, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}: expected at least 0, got {value}")
    if config.num_images is not None and config.num_images < LEAST:
        raise ValueError(
            f"num_images: expected at least {LEAST}, five a class, for class-conditional estimates; got {config.num_images}"
        )
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected an integer from 0 to 2³² - 1, got {config.seed}")
    if config.tolerance is not None and not 0 < config.tolerance < np.inf:
        raise ValueError(f"tolerance: expected a relative error above 0, as 0.02, got {config.tolerance}")
    if config.tolerance is not None and config.num_steps is not None:
        raise ValueError(f"num_steps, tolerance: expected one of them, got {config.num_steps} and {config.tolerance}")
    if not 0 < config.noise < np.inf:
        raise ValueError(f"noise: expected a number above 0, got {config.noise}")
    if config.distributed and config.out is None:
        raise ValueError("out: expected a folder with --distributed, of one name on every host, from which a restart goes on")
    if not config.distributed and (config.coordinator, config.num_processes, config.process_id) != (None, None, None):
        raise ValueError("coordinator, num_processes, process_id: expected only with --distributed")
