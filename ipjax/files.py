"""Records on disk: dicts as columns of a `.npz` file and rows of a table; and files that appear whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Record = dict[str, Any]  # of strings, numbers, booleans, tuples of numbers, None
_NO_INTEGER = np.iinfo(np.int64).min
_NO_BOOLEAN = -1


def save(records: Sequence[Record], path: str | Path) -> None:
    """Writes records as arrays, a column each, to a `.npz` file; `load` gives them back, keys that some lack as `None`."""
    columns = {key: [record.get(key) for record in records] for key in _keys(records)}
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **{key: _as_array(values) for key, values in columns.items()})


def load(path: str | Path) -> tuple[Record, ...]:
    """What `save` wrote. Raises `FileNotFoundError`, and `ValueError` for a file that `save` did not write."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {key: _as_list(file[key]) for key in file.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"records: expected a file at {path}, found nothing") from None
    except Exception as error:  # numpy raises many kinds for damaged files
        raise ValueError(f"{path} is no file of records, or is damaged ({error}); make it again") from error
    lengths = {len(column) if isinstance(column, list) else None for column in columns.values()}
    if len(lengths) > 1 or None in lengths:
        raise ValueError(f"{path} is no file of records: expected columns of one length")
    return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def to_csv(records: Sequence[Record], path: str | Path) -> None:
    """Writes records as rows, numbers with 6 digits; empty where there is no value. Subsamples are left out."""
    keys = [key for key in _keys(records) if not key.endswith("_subsamples")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([_as_text(record.get(key)) for key in keys] for record in records)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def checked_place(path: str | Path) -> Path:
    """The path, made absolute. Raises `FileNotFoundError` where its folder is missing, `ValueError` where it is no file's."""
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise ValueError(f"expected the path of a file, {path} is none; choose another")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"expected a folder {path.parent} to write {path.name} into; make it, or choose another")
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` only once it is written whole and on the disk. Raises as `checked_place`."""
    path = checked_place(path)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _keys(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record))


def _as_array(values: list[Any]) -> np.ndarray:
    """A column: `None` is "" among strings, NaN among numbers, a value of its own among integers and booleans; tuples are rows,
    filled with NaN."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if tuple in kinds:
        width = max(len(value) for value in present)
        return np.asarray([(*(value or ()), *[np.nan] * (width - len(value or ()))) for value in values], np.float64)
    if str in kinds:
        return np.asarray(["" if value is None else value for value in values])
    if len(present) == len(values):
        return np.asarray(values)
    if kinds <= {bool, np.bool_} and kinds:
        return np.asarray([_NO_BOOLEAN if value is None else value for value in values], np.int8)
    if all(issubclass(kind, int | np.integer) for kind in kinds) and kinds:
        return np.asarray([_NO_INTEGER if value is None else value for value in values], np.int64)
    return np.asarray([np.nan if value is None else float(value) for value in values])


def _as_list(array: np.ndarray) -> list[Any] | None:
    def value(item: Any) -> Any:
        if isinstance(item, list):
            return tuple(part for part in item if part == part) or None
        if array.dtype == np.int8:
            return None if item == _NO_BOOLEAN else bool(item)
        return None if item == "" or item != item or item == _NO_INTEGER else item

    return [value(item) for item in array.tolist()] if array.ndim else None


def _as_text(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value
