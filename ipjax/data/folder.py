"""Photographs in a folder: a folder a class, or one folder with a file of labels.

Nothing is decoded when a folder is opened: its names and labels are read, images when they are asked for.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from ipjax.data.pipeline import Images
from ipjax.data.preprocessing import Preprocessing

IMAGE_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"))
LABEL_ENDINGS = frozenset((".csv", ".tsv", ".txt"))
LAYOUTS = "expected a folder of images for each class, or images beside one label file (.csv, .tsv or .txt)"


@dataclass(frozen=True)
class Folder:
    """Image files `names`, relative to `path`, and their labels [n]."""

    path: Path
    names: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    num_classes: int
    preprocessing: Preprocessing

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one preprocessed image, channels last."""
        return self.preprocessing.crop, self.preprocessing.crop, 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Float32[np.ndarray, "crop crop 3"]:
        return self.preprocessing(self.path / self.names[i])

    def name(self, i: int) -> str:
        """The file's path in the folder."""
        return self.names[i]


def open_folder(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Images:
    """The images of a folder, in the order of their names.

    Either each folder in it is a class, with images anywhere below it; or images lie in it beside one label file that ends
    in .csv, .tsv or .txt, with a line an image: file name and label, between them a comma, a tab or blanks. A first line
    that names no image is a header. Hidden files are ignored, links followed.

    Classes are numbered from 0 in the order of their names, in that of numbers where all names are whole numbers; whole
    numbers in a label file stay as they are, from 0 to the largest. Where all classes are named by ImageNet's identifiers
    (n01440764, ...), they are numbered as ImageNet's 1,000 classes.

    **Raises:** `FileNotFoundError` where there is no such folder; `ValueError` for one that is laid out otherwise, an image
    without a label, a label without an image, and fewer than two classes.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder of images, found {'a file' if root.exists() else 'nothing'}")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    images = [entry.name for entry in entries if _is_image(entry)]
    files = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in LABEL_ENDINGS]
    folders = {entry: os.path.realpath(entry) for entry in entries if entry.is_dir()}
    if len(set(folders.values())) < len(folders):
        raise ValueError(f"{root}: expected class folders of their own, found links to the same one; remove them")
    apart = {os.path.realpath(root), *folders.values()}
    classes = {entry.name: _images_below(entry, apart - {real}) for entry, real in folders.items()}
    if not images and not any(classes.values()):
        raise ValueError(f"{root}: {LAYOUTS}, found no image; images end in {', '.join(sorted(IMAGE_ENDINGS))}")
    if images and any(classes.values()):
        inside = next(name for name, below in classes.items() if below)
        raise ValueError(f"{root}: {LAYOUTS}, found both: {images[0]} beside the folder {inside} with images; move one away")
    if images:
        labels = _read_labels(root, images, files)
        names = images
    else:
        if empty := [name for name, below in classes.items() if not below]:
            raise ValueError(f"{root}: expected images in every class folder, found none in {_few(empty)}; remove or fill it")
        names = [name for below in classes.values() for name in below]
        labels = [label for label, below in classes.items() for _ in below]
    numbers, num_classes = _numbered(labels, keep_numbers=bool(images))
    if len(np.unique(numbers)) < 2:
        raise ValueError(f"{root}: expected at least two classes, found one, {labels[0]}; information about it would be zero")
    return Folder(root, tuple(names), numbers, num_classes, preprocessing)


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """WordNet identifiers of ImageNet's 1,000 classes, in the order of their indices, from the list that TFDS ships."""
    package = find_spec("tensorflow_datasets")  # which imports nothing
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("ImageNet's class names come with tensorflow-datasets: pip install tensorflow-datasets")
    return tuple((Path(package.submodule_search_locations[0]) / "datasets/imagenet2012/labels.txt").read_text().split())


def _is_image(entry: Path) -> bool:
    if entry.suffix.lower() not in IMAGE_ENDINGS:
        return False
    return entry.is_file() or (entry.is_symlink() and not entry.exists())  # a broken link is one, unreadable


def _images_below(folder: Path, apart: set[str]) -> list[str]:
    """Names relative to the folder's parent, without what is below the folders that are `apart`."""
    found, visited = [], set(apart)
    for here, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in visited:  # a link to a folder above would go round forever
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(here, name) for name in files if not name.startswith(".") and _is_image(Path(here, name))]
    return sorted(str(path.relative_to(folder.parent)) for path in found)


def _read_labels(root: Path, images: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The label of each image, from the one label file."""
    if len(files) != 1:
        found = _few([file.name for file in files]) if files else "none"
        raise ValueError(f"{root}: expected one label file (.csv, .tsv or .txt) beside the images, found {found}")
    path, known, labels = files[0], set(images), {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got {error}") from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for position, (number, line) in enumerate(rows):
        fields = _fields(line)
        if position == 0 and fields and fields[0] not in known and Path(fields[0]).suffix.lower() not in IMAGE_ENDINGS:
            continue  # a header
        if len(fields) != 2 or not all(fields):
            raise ValueError(f"{path}, line {number}: expected a file name and a label, got {line[:80]!r}")
        name, label = fields
        if name not in known:
            raise ValueError(f"{path}, line {number}: expected the name of an image in {root}, got {name!r}; remove the line")
        if labels.setdefault(name, label) != label:
            raise ValueError(f"{path}, line {number}: expected one label an image, got {labels[name]} and {label} for {name}")
    if missing := [name for name in images if name not in labels]:
        raise ValueError(f"{path}: expected a line for every image, found none for {_few(missing)}; add or remove them")
    return [labels[name] for name in images]


def _fields(line: str) -> list[str]:
    """What a comma, a tab, or else the last blanks separate; names with blanks need one of the former."""
    for separator in (",", "\t"):
        if separator in line:
            try:
                return [field.strip() for field in next(csv.reader([line.strip()], delimiter=separator))]
            except csv.Error:
                return []
    return line.strip().rsplit(maxsplit=1)


def _numbered(labels: Sequence[str], *, keep_numbers: bool) -> tuple[np.ndarray, int]:
    """Class numbers [n] from 0 and how many classes there are."""
    classes = sorted(set(labels))
    if keep_numbers and (odd := [label for label in classes if re.fullmatch(r"-\d+|\d{7,}", label)]):
        raise ValueError(f"labels: expected names, or whole numbers from 0 to 999999, got {_few(odd)}")
    if all(label.isascii() and label.isdigit() for label in classes):
        if keep_numbers:
            return np.array([int(label) for label in labels]), max(map(int, classes)) + 1
        classes.sort(key=int)
    imagenet = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    if set(classes) <= imagenet.keys():
        number, num_classes = imagenet, len(imagenet)
    else:
        number, num_classes = {label: i for i, label in enumerate(classes)}, len(classes)
    return np.array([number[label] for label in labels]), num_classes


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
