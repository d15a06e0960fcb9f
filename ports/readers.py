"""State dicts from files: `.safetensors`, and `.pth` in both of torch's formats, without torch.

Weights files come from strangers: what a file claims is checked before it is used, and nothing in it is executed
(`ports/state_pickle.py`). Arrays are views of the memory-mapped file, so reading costs little time and memory.

Sources: the safetensors format, whose library checks the header; `torch.serialization` (torch 2.13) for the zip archive
(since torch 1.6) and for the stream of pickles and raw storages before it; APPNOTE.TXT of PKWARE for zip.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from ports import state_pickle
from ports.state_pickle import Storage, Tensor, describe

MAX_DIRECTORY = 2**23  # bytes of names and places in a safetensors or zip file: about 80,000 tensors
NESTED = ("state_dict", "model_state_dict", "model")


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a weights file by name, in the precision of the file.

    The format is known by the content. Of a checkpoint that holds other things too, the dict of tensors under
    `state_dict`, `model_state_dict` or `model` is taken, where there is exactly one; `module.` before every name
    (DataParallel) is dropped. Arrays may be read-only views of the file: copy what must outlive a change of the file.

    **Raises:** `FileNotFoundError` where there is none; `ValueError` for a file of another kind, a truncated or damaged
    file, a file that asks for more than a state dict needs, or holds anything but a state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file: expected a file at {path}, found {'a folder' if path.is_dir() else 'nothing'}")
    size = 0
    try:
        size = path.stat().st_size
        if size == 0:
            raise _damaged("the file is empty")
        with path.open("rb") as opened:
            file = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        arrays = _read_mapped(path, file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} ({size:,} bytes) cannot be read as a weights file: {error}") from error
    if arrays and all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


def _read_mapped(path: Path, file: np.ndarray) -> dict[str, np.ndarray]:
    start = file[:512].tobytes()
    if start[8:9] == b"{":  # after the header's length, which can look like any of the others
        return _read_safetensors(path, file)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _read_zip(path, file)
    if start.startswith(b"\x80"):
        return _read_legacy(file)
    for kind, found in {
        "an HTML page, not the file it links to": start.lstrip().lower().startswith((b"<!doctype", b"<html")),
        "a git-lfs pointer; get the file itself with `git lfs pull`": start.startswith(b"version https://git-lfs"),
        "a .tar archive (or torch's format before 0.1.9); unpack it, or save again": start[257:262] == b"ustar",
        "a gzip file; unpack it": start.startswith(b"\x1f\x8b"),
        "an HDF5 file, as Keras writes": start.startswith(b"\x89HDF"),
        "a NumPy array": start.startswith(b"\x93NUMPY"),
        "JSON, as an index of several weights files": start.lstrip().startswith(b"{"),
    }.items():
        if found:
            raise ValueError(f"expected safetensors or a state dict by torch.save, got {kind}")
    raise _damaged(f"expected safetensors or a state dict by torch.save, the file starts with {start[:16]!r}")


# safetensors

_SAFETENSORS = {
    "BOOL": np.bool_,
    **{f"{kind}{8 * size}": f"{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"f{size}" for size in (2, 4, 8)},
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "C64": np.complex64,
}


def _read_safetensors(path: Path, file: np.ndarray) -> dict[str, np.ndarray]:
    length = int.from_bytes(file[:8].tobytes(), "little")
    if length > min(MAX_DIRECTORY, len(file) - 8):
        raise _damaged(f"a safetensors header of {length:,} bytes, expected at most {min(MAX_DIRECTORY, len(file) - 8):,}")
    try:
        safe_open(path, framework="np")  # checks every dtype, shape and place, and that they cover the file
        header = json.loads(file[8 : 8 + length].tobytes())
    except Exception as error:  # the library raises several kinds
        raise _damaged(f"{type(error).__name__}: {describe(error)}") from error
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(
                f"{describe(name)} has the type {describe(entry['dtype'])}, expected one of {', '.join(_SAFETENSORS)}"
            )
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        dtype, shape = np.dtype(_SAFETENSORS[entry["dtype"]]), tuple(entry["shape"])
        arrays[name] = _view(name, Tensor(None, dtype, 0, shape, _contiguous(shape)), file[begin:end])
    return _native(arrays, "little")


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# torch's zip archive


def _read_zip(path: Path, file: np.ndarray) -> dict[str, np.ndarray]:
    records = _records(path, file)
    name = next(name for name in records if name.partition("/")[2] == "data.pkl")
    folder = name.removesuffix("data.pkl")
    if len(records[name]) > state_pickle.MAX_BYTES:
        raise ValueError(f"expected a state dict, got a pickle of {len(records[name]):,} bytes; it was not executed")
    content, storages = state_pickle.load(io.BytesIO(records[name].tobytes()))
    byteorder = records[f"{folder}byteorder"].tobytes() if f"{folder}byteorder" in records else b"little"
    if byteorder not in (b"little", b"big"):
        raise _damaged(f"expected the byte order little or big, got {byteorder[:20]!r}")
    blocks = {}
    for key, storage in storages.items():
        block = records.get(f"{folder}data/{key}")
        if block is None or len(block) // storage.dtype.itemsize != storage.length:
            found = "no record" if block is None else f"a record of {len(block):,} bytes"
            raise _damaged(f"expected {storage.length:,} of {storage.dtype} in storage {describe(key)}, found {found}")
        blocks[key] = block
    return _arrays(content, blocks, len(file), byteorder.decode())


class _Directory(io.FileIO):
    """The file as `zipfile` sees it, which reads an archive's list of records in one piece however long it claims to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise ValueError(f"a list of records of {size:,} bytes, expected at most {MAX_DIRECTORY:,}")
        return super().read(size)


def _records(path: Path, file: np.ndarray) -> dict[str, np.ndarray]:
    """The bytes of every record by name, of an archive whose records lie behind each other and uncompressed."""
    try:
        with _Directory(path) as opened, zipfile.ZipFile(opened) as archive:
            entries, end = archive.infolist(), archive.start_dir
    except Exception as error:  # zipfile raises many kinds for damaged archives
        raise _damaged(f"{type(error).__name__}: {describe(error)}") from error
    _check_names([entry.filename for entry in entries])
    records = {}
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        name = describe(entry.filename)
        if not 0 <= entry.header_offset <= end - 30:
            raise _damaged(f"record {name} lies outside of the file or over another")
        header = file[entry.header_offset : entry.header_offset + 30].tobytes()
        signature, flags, method, name_length, extra_length = struct.unpack("<4s2xHH16xHH", header)
        start = entry.header_offset + 30
        encoded = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
        if signature != b"PK\3\4" or file[start : start + name_length].tobytes() != encoded:
            raise _damaged(f"record {name} is not where the archive says")
        if (flags | entry.flag_bits) & 1:
            raise ValueError(f"record {name} is encrypted; save it again with torch.save")
        if method or entry.compress_type or entry.compress_size != entry.file_size:
            raise ValueError(f"record {name} is compressed, which torch.save never does; save it again with torch.save")
        start += name_length + extra_length
        if start + entry.file_size > end:
            raise _damaged(f"record {name} of {entry.file_size:,} bytes reaches out of the file or into another")
        records[entry.filename] = file[start : start + entry.file_size]
        end = entry.header_offset
    return records


def _check_names(names: list[str]) -> None:
    """That an archive is one by `torch.save`, judged by the names of its records."""
    if len(set(names)) != len(names):
        raise _damaged("two records of the archive have the same name")
    inner = [name.partition("/")[2] for name in names]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        kind = "a TorchScript archive; load it with torch.jit.load and save its state_dict() with torch.save"
    elif any(name.endswith(".npy") for name in names):
        kind = "NumPy's .npz; save the arrays as safetensors"
    elif "model.weights.h5" in names:
        kind = "a Keras model"
    elif inner.count("data.pkl") != 1:
        few = ", ".join(map(describe, names[:5])) or "no records"
        kind = f"a zip archive with {inner.count('data.pkl')} records data.pkl ({few}{', ...' if len(names) > 5 else ''})"
    else:
        return
    raise ValueError(f"expected safetensors or a state dict by torch.save, got {kind}")


# torch's format before zip

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def _read_legacy(file: np.ndarray) -> dict[str, np.ndarray]:
    """Pickles of a magic number, a version, facts on the machine, the state dict and the storages' keys; then the storages.

    Each storage is its number of elements (64 bits) and its bytes; all are little-endian, whatever the machine.
    """
    stream = io.BytesIO(file[: state_pickle.MAX_BYTES].tobytes())
    for expected in (_MAGIC, _VERSION):
        number, _ = state_pickle.load(stream)
        if not isinstance(number, int) or number != expected:
            raise ValueError(f"expected a state dict by torch.save, got another pickle (without torch's number {expected})")
    state_pickle.load(stream)
    content, storages = state_pickle.load(stream)
    keys, _ = state_pickle.load(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys) or set(keys) != set(storages):
        raise _damaged("the list of storages is not that of the tensors")
    position, blocks = stream.tell(), {}
    for key in keys:
        storage = storages[key]
        start, position = position + 8, position + 8 + storage.length * storage.dtype.itemsize
        if position > len(file):
            raise _damaged(f"storage {describe(key)} ends at byte {position:,}")
        length = int.from_bytes(file[start - 8 : start].tobytes(), "little", signed=True)
        if length != storage.length:
            raise _damaged(f"expected {storage.length:,} elements in storage {describe(key)}, found {length:,}")
        blocks[key] = file[start:position]
    return _arrays(content, blocks, len(file), "little")


# what both have in common


def _arrays(content: Any, blocks: Mapping[str | int, np.ndarray], size: int, byteorder: str) -> dict[str, np.ndarray]:
    """The arrays of the pickle's content, as views of the storages' bytes."""
    arrays, total = {}, 0
    for name, tensor in _state_dict(content).items():
        storage: Storage | None = tensor.storage
        if storage is None:
            raise _damaged(f"{describe(name)} has no values")
        arrays[name] = _view(name, tensor, blocks[storage.key])
        total += arrays[name].nbytes
    if total > 4 * size + 2**26:  # strides of 0 make much of little, and who converts the arrays allocates it
        raise ValueError(f"its tensors would take {total:,} bytes; save copies of expanded tensors, `tensor.contiguous()`")
    return _native(arrays, byteorder)


def _native(arrays: dict[str, np.ndarray], byteorder: str) -> dict[str, np.ndarray]:
    """Arrays of a file of this byte order; copies only where the machine has the other."""
    if byteorder == sys.byteorder:
        return arrays
    return {name: array.view(f"u{array.itemsize}").byteswap().view(array.dtype) for name, array in arrays.items()}


def _state_dict(content: Any) -> dict[str, Tensor]:
    if _is_state_dict(content):
        return content
    nested = [content[key] for key in NESTED if key in content] if isinstance(content, dict) else []
    nested = [inner for inner in nested if inner and _is_state_dict(inner)]
    if len(nested) == 1:
        return nested[0]
    found = f"under {len(nested)} of the keys {', '.join(NESTED)}"
    if isinstance(content, dict) and not nested:
        others = [(key, value) for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
        found = ", ".join(f"{describe(key)!r}: {type(value).__name__}" for key, value in others[:3])
    around = f" ({found})" if isinstance(content, dict) else ""
    raise ValueError(
        f"it holds {type(content).__name__} that is not a state dict of tensors{around}; "
        "save model.state_dict() alone, without optimizer state or settings around it"
    )


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _view(name: str, tensor: Tensor, block: np.ndarray) -> np.ndarray:
    """A tensor's array over the bytes of its storage, after its size, strides and offset have been checked against them."""
    dtype, name = np.dtype(tensor.dtype), describe(name)
    size, stride = tensor.size, tensor.stride
    numbers = (tensor.offset, *size, *stride) if isinstance(size, tuple | list) and isinstance(stride, tuple | list) else ()
    if not numbers or not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers):
        raise _damaged(f"expected numbers from 0 to 2^63 as size, stride and offset of {name}")
    if len(size) != len(stride) or len(size) > 64 or math.prod(max(n, 1) for n in size) * dtype.itemsize >= 2**63:
        raise _damaged(f"{name} has {len(size)} axes, {len(stride)} strides, and a size that no array can have")
    if 0 in size:
        return np.empty(size, dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (last + 1) * dtype.itemsize > len(block):
        raise _damaged(f"{name} reaches to element {last:,} of a storage of {len(block):,} bytes")
    # A stride along an axis of length 1 means nothing, and may be too large for NumPy.
    steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
    array = np.ndarray(tuple(size), f"u{dtype.itemsize}", block.data, tensor.offset * dtype.itemsize, steps)  # checks again
    return array.view(dtype)


def _damaged(reason: str) -> ValueError:
    return ValueError(f"it is truncated, damaged or of another format; download or save it again ({reason})")
