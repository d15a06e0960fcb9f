"""Features of many images on disk, a file a shard, so that a run that is killed loses no more than the shard it was at.

A shard holds the arrays `[rows, ...]` of a range of images in a safetensors file named by the range. It is written under
another name, flushed to the disk and renamed, so a file of that name is whole; its header carries the settings that its numbers
depend on and a checksum of everything in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


@dataclass(frozen=True)
class Shard:
    """What is known of images `start` to `stop - 1` of a selection."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def file(self) -> str:
        """Its name in the store's folder."""
        return f"{self.start:08d}-{self.stop:08d}.safetensors"


def shards(num_images: int, size: int) -> tuple[Shard, ...]:
    """All images in shards of one size; the last one may be smaller."""
    if size < 1:
        raise ValueError(f"size: expected at least 1 image in a shard, got {size}")
    return tuple(Shard(start, min(start + size, num_images)) for start in range(0, num_images, size))


@dataclass(frozen=True)
class Store:
    """A folder of shards that were computed with the same settings.

    **Arguments:**

    - `settings`: whatever the numbers depend on, as JSON's plain values.
    """

    folder: Path
    settings: Mapping[str, Any]

    def check(self, wanted: Sequence[Shard]) -> tuple[list[Shard], list[Shard]]:
        """The shards that are missing, and those of them whose file was there but damaged and has been removed.

        Reads every file whole. Left-overs of a killed run are removed.

        **Raises:** `ValueError` for a shard of other settings, naming them; `OSError` where the folder cannot be made or read.
        """
        missing, damaged, files = [], [], {shard.file for shard in wanted}
        with explained(f"could not make or read the folder {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            for part in self.folder.glob(".*.part"):
                if part.name[1:].rsplit(".", 2)[0] in files:
                    part.unlink(missing_ok=True)
            for shard in wanted:
                path = self.folder / shard.file
                if not path.exists():
                    missing.append(shard)
                elif (settings := _verified(path)) is None:
                    path.unlink()
                    missing.append(shard)
                    damaged.append(shard)
                elif settings != _plain(self.settings):
                    raise ValueError(
                        f"{path} was computed with other settings ({difference(settings, _plain(self.settings))}); choose "
                        "another folder, or remove this one to compute everything anew"
                    )
        return missing, damaged

    def write(self, shard: Shard, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str] | None = None) -> None:
        """Writes a shard; what is there under its name afterwards is whole, whatever happens meanwhile.

        **Raises:** `OSError` where the disk is full or the folder cannot be written to; other shards are not touched.
        """
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}  # safetensors takes memory as it lies
        texts = {"settings": json.dumps(_plain(self.settings)), "notes": json.dumps(dict(notes or {}))}
        content = save(arrays, metadata=texts | {"sha256": _checksum(texts, arrays)})
        part = self.folder / f".{shard.file}.{os.getpid()}.part"
        with explained(f"could not write {shard.file} ({len(content) / 2**20:.1f} MiB) to {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self.folder / shard.file)
                _flush_folder(self.folder)
            finally:
                part.unlink(missing_ok=True)

    def read(self, some: Sequence[Shard], name: str) -> np.ndarray:
        """One array of some shards, joined along its first axis."""
        return np.concatenate([_tensor(self.folder / shard.file, name) for shard in some])

    def notes(self, some: Sequence[Shard]) -> dict[str, str]:
        """What was noted with some shards."""
        together: dict[str, str] = {}
        for shard in some:
            with safe_open(self.folder / shard.file, framework="np") as file:
                together |= json.loads(file.metadata()["notes"])
        return together


@contextmanager
def explained(failed: str) -> Iterator[None]:
    """Errors of the file system say what failed, and that nothing finished is lost."""
    try:
        yield
    except OSError as error:
        if isinstance(error.__cause__, OSError):  # explained already
            raise
        raise OSError(
            f"{failed}: {error.strerror or error}; finished shards are kept: mend this and start again with the same folder"
        ) from error


def _tensor(path: Path, name: str) -> np.ndarray:
    with safe_open(path, framework="np") as file:
        return file.get_tensor(name)


def _verified(path: Path) -> dict[str, Any] | None:
    """The settings of a shard, `None` where the file is not what was written."""
    try:
        with safe_open(path, framework="np") as file:
            texts = dict(file.metadata() or {})
            checksum = texts.pop("sha256", None)
            names = list(file.keys())
            arrays = {name: file.get_tensor(name) for name in names}
        return json.loads(texts["settings"]) if checksum == _checksum(texts, arrays) else None
    except (SafetensorError, KeyError, ValueError):
        return None


def _checksum(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two settings, in words."""
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys)
