"""Image data sets that TensorFlow Datasets has prepared as ArrayRecord files, read without TensorFlow.

The stored JPEGs are decoded by `Preprocessing`, so that pixels are those of the original files. Neither the network nor
TensorFlow is touched; `python -m experiments.prepare_data` prepares the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Int

from ipjax.data.folder import imagenet_wnids
from ipjax.data.pipeline import Images
from ipjax.data.preprocessing import Preprocessing

SPLITS = {  # name -> name with its configuration in TFDS, split
    "imagenet2012": ("imagenet2012", "validation"),
    "imagenet_v2": ("imagenet_v2/matched-frequency", "test"),
    "imagenette": ("imagenette/full-size-v2", "validation"),
}

Track = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Records:
    """Records of a TFDS data source, with labels [n] that are indices of ImageNet's classes."""

    source: Any  # of TFDS: a sequence of dicts, the image in them still encoded
    split: str
    labels: Int[np.ndarray, " n"]
    preprocessing: Preprocessing

    @property
    def num_classes(self) -> int:
        """ImageNet's 1,000, of which a data set may hold fewer."""
        return len(imagenet_wnids())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one preprocessed image, channels last."""
        return self.preprocessing.crop, self.preprocessing.crop, 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Float32[np.ndarray, "crop crop 3"]:
        record = _record(self.source, i, self.split)
        try:
            return self.preprocessing(record["image"])
        except ValueError as error:
            raise ValueError(f"{self._named(record, i)}: {error}") from error

    def name(self, i: int) -> str:
        """The file's name that the record keeps, or its number."""
        return self._named(_record(self.source, i, self.split), i)

    def _named(self, record: dict[str, Any], i: int) -> str:
        where = f"{self.split}, record {i}"
        return f"{record['file_name'].decode()} ({where})" if "file_name" in record else where


def open_tfds(
    name: str, preprocessing: Preprocessing, data_dir: str | os.PathLike[str] | None = None, *, track: Track = iter
) -> Images:
    """The validation images of `imagenet2012` or `imagenette`, or the test images of `imagenet_v2` (matched frequency).

    Labels are indices of ImageNet's 1,000 classes. They are read here, from all records.

    **Arguments:**

    - `data_dir`: the folder of TFDS's data sets; by default its own, `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    - `track`: wraps the record numbers that labels are read of, to show progress.

    **Raises:** `FileNotFoundError` where the data set is not prepared; `ValueError` for one prepared in another file
    format; `OSError` for damaged files.
    """
    if name not in SPLITS:
        raise ValueError(f"name: expected one of {', '.join(SPLITS)}, got {name!r}")
    import tensorflow_datasets as tfds

    configured, split = SPLITS[name]
    builder = open_builder(configured, data_dir)
    prepare = f"python -m experiments.prepare_data {name}"
    if data_dir is not None:
        prepare += f" --data-dir {os.fspath(data_dir)}"
    if name == "imagenet2012":
        prepare += " --manual-dir FOLDER_OF_THE_TARS"
    if not builder.info.splits:  # what is_prepared asks, without its warning
        raise FileNotFoundError(f"{name}: expected it prepared in {builder.data_path}, found nothing; prepare it: {prepare}")
    if split not in builder.info.splits:
        found = ", ".join(builder.info.splits)
        message = f"expected the split {split} in {builder.data_path}, found {found}; delete that folder and prepare it again"
        raise FileNotFoundError(f"{name}: {message}: {prepare}")
    reader = cast(Any, builder)  # a decorator of TFDS's hides the signatures
    source = reader.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    where = f"{name}, {split}"
    labels = np.array([_record(source, i, where)["label"] for i in track(range(len(source)))])
    index = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    features: Any = builder.info.features
    classes = np.array([index[wnid] for wnid in features["label"].names])
    return Records(source, where, classes[labels], preprocessing)


def open_builder(configured: str, data_dir: str | os.PathLike[str] | None):
    """TFDS's builder of a data set in ArrayRecord format; `ValueError` where it is there in another one."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants

    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return tfds.builder(configured, data_dir=folder, file_format="array_record")
    except Exception as error:  # damaged metadata raise nearly anything
        if not isinstance(error, ValueError) or "File format" not in str(error):
            where = folder or constants.DATA_DIR
            raise OSError(
                f"{configured}: could not be opened in {where} ({type(error).__name__}: {error}); delete its folder there and "
                "prepare it again"
            ) from error
        name = configured.split("/")[0]
        at = os.path.join(folder or str(constants.DATA_DIR), configured)
        raise ValueError(
            f"{name}: expected array_record files in {at}, found another file format ({str(error).splitlines()[0]}). Keep "
            f"them, and prepare the data set in another folder: python -m experiments.prepare_data {name} --data-dir FOLDER"
        ) from error


def _record(source: Any, i: int, split: str) -> dict[str, Any]:
    try:
        return source[i]
    except RuntimeError as error:  # ArrayRecord's, for files that are missing, cut short or damaged
        raise OSError(f"{split}, record {i}: damaged files ({error}); delete them and prepare the data set again") from error
