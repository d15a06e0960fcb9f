"""Which images a run analyses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.config import LEAST
from experiments.console import progress
from ipjax.data import digits, folder, tfds
from ipjax.data.pipeline import Images, stratified
from ipjax.data.preprocessing import Preprocessing
from ports.catalog import CATALOG

MOST = 10_000  # images where no number is given
DIGITS = Preprocessing(
    digits.CANVAS, digits.CANVAS, (digits.MEAN, digits.MEAN, digits.MEAN), (digits.STD, digits.STD, digits.STD)
)


@dataclass(frozen=True)
class Selection:
    """Images of a data set, in random order.

    **Attributes:**

    - `index`: `[n]`, which of `images`.
    - `nuisances`: name -> class index `[n]`, where the data set knows any.
    - `settings`: what the pixels depend on.
    """

    images: Images
    index: Int[np.ndarray, " n"]
    nuisances: dict[str, Int[np.ndarray, " n"]]
    settings: dict[str, Any]

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.asarray(self.images.labels)[self.index]


def select(
    data: str,
    preprocessing: Preprocessing,
    *,
    data_dir: Path | None,
    num_images: int | None,
    min_per_class: int,
    clutter: float,
    seed: int,
) -> Selection:
    """Images of the digits, of a data set of TFDS, or of a folder; arguments as in `experiments.config.Config`."""
    if data == "digits":
        num_images = digits.NUM_TEST if num_images is None else num_images
        drawn = digits.digits_in_clutter("test", num_images, seed=seed, clutter=clutter)
        return Selection(drawn, np.arange(num_images), drawn.nuisances, {"data": data, "clutter": clutter})
    if data in tfds.SPLITS:
        images = _open_tfds(data, preprocessing, data_dir)
    elif Path(data).expanduser().is_dir():
        images = folder.open_folder(data, preprocessing)
    else:
        raise ValueError(f"data: expected digits, {', '.join(tfds.SPLITS)} or a folder of images, got {data!r}")
    if len(images) < LEAST:
        raise ValueError(f"data: expected at least {LEAST} images, for class-conditional estimates; {data} has {len(images)}")
    num_images = min(len(images), MOST) if num_images is None else num_images
    index = stratified(images.labels, num_images, min_per_class=min_per_class, seed=seed)
    digest = hashlib.sha256()
    for i in index:
        digest.update(f"{images.name(i)}\n{images.labels[i]}\n".encode(errors="surrogateescape"))
    settings = {"data": data, "preprocessing": asdict(preprocessing), "images": digest.hexdigest()}
    return Selection(images, index, {}, settings)


def _open_tfds(data: str, preprocessing: Preprocessing, data_dir: Path | None) -> Images:
    with progress("labels", 1) as advance:

        def track(records: Sequence[int]) -> Iterator[int]:
            for record in records:
                yield record
                advance(1 / len(records))

        return tfds.open_tfds(data, preprocessing, data_dir, track=track)


def preprocessing_of(network: str, weights: str, resize: int | None, crop: int | None) -> Preprocessing:
    """That of the published evaluation of the weights, of torchvision's first ones for weights from elsewhere; with the given
    sizes in place of its own."""
    if weights == "digits":
        own = DIGITS
    else:
        published = [e.preprocessing for e in CATALOG if (e.network, e.weights) == (network, weights)]
        own = published[0] if published else Preprocessing()
    sizes = {name: size for name, size in (("resize", resize), ("crop", crop)) if size is not None}
    return replace(own, **sizes)
