"""The pickle inside a `.pth` file, interpreted without executing anything that it names.

A pickle is a program for a stack machine, and weights files come from strangers. This machine knows the operations that
`torch.save` writes for a state dict and no others: a name in the file becomes a `Symbol` from a fixed list, never a
Python object, and a "call" of one is interpreted right here. Tensors come out as `Tensor`, a description of where their
values lie; no weights are touched. Nothing in here recurses, and what a file can make it allocate is bounded.

Sources: `pickletools` in CPython, which documents every operation and splits the bytes into them; `torch.serialization`
and `torch._weights_only_unpickler` (torch 2.13), and for files of torch 0.1 `torch.Tensor.__setstate__`.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import ml_dtypes
import numpy as np

MAX_BYTES = 2**24  # of one pickle; a tensor takes about 150
MAX_OPERATIONS = 1_000_000  # a tensor takes about 40
MAX_NESTING = 1000  # of marks; a state dict has fewer than ten
MAX_INTEGER = 2**127  # the largest that torch writes is its 77-bit magic number


@dataclass(frozen=True)
class Symbol:
    """An allowed name; the thing it names is never imported."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A block of values that tensors are views of, as the pickle claims it."""

    key: str | int
    dtype: np.dtype
    length: int


@dataclass
class Tensor:
    """A view of a storage, as the pickle claims it; unchecked. Offset and strides count elements."""

    storage: Storage | None = None  # None until a file of torch 0.1 fills it
    dtype: np.dtype | None = None
    offset: Any = 0
    size: Any = ()
    stride: Any = ()


def load(stream: BytesIO) -> tuple[Any, dict[str | int, Storage]]:
    """The object of the pickle that starts at the stream's position, and all storages that it names, by key.

    Dicts of every kind become `dict`, their attributes are dropped. The stream is left after the pickle.

    **Raises:** `ValueError` for a damaged pickle and for anything a state dict does not need.
    """
    machine = _Machine()
    start = stream.tell()
    operations = pickletools.genops(stream)
    for count in range(MAX_OPERATIONS):
        try:
            operation, argument, position = next(operations)
        except ValueError as error:  # also of the decoding of text
            raise _damaged(f"{error}") from error
        except StopIteration:
            return machine.result(), machine.storages
        if operation.name == "FRAME" and (argument or 0) > len(stream.getbuffer()) - stream.tell():
            raise _damaged(f"a frame of {argument} bytes")
        machine.step(operation.name, argument, (position or 0) - start, count)
    raise ValueError(f"expected a state dict, got a pickle of more than {MAX_OPERATIONS:,} operations; it was not executed")


@dataclass
class _Machine:
    """Stacks and memo. `frames` holds one list for every open mark, the lowest for what is below the first."""

    frames: list[list[Any]] = field(default_factory=lambda: [[]])
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str | int, Storage] = field(default_factory=dict)

    def step(self, name: str, argument: Any, position: int, count: int) -> None:
        """Does one operation: the `count`-th, `position` bytes into the pickle."""
        match name:
            case "BINPUT" | "LONG_BINPUT":
                if argument > position:  # every put takes two bytes, so the index of no real one gets there
                    raise _damaged(f"a memo index of {argument} at position {position}")
                self.memo[argument] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise _damaged(f"nothing at memo index {argument}")
                self.push(self.memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4":
                if not -MAX_INTEGER <= argument <= MAX_INTEGER:
                    raise _damaged("an integer of more than 16 bytes")
                self.push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINFLOAT" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                self.push(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # a str of Python 2, which pickletools decodes as latin-1
                try:
                    self.push(argument.encode("latin-1").decode())
                except UnicodeDecodeError as error:
                    raise _damaged(f"{error}") from error
            case "MARK":
                if len(self.frames) > MAX_NESTING:
                    raise _damaged(f"more than {MAX_NESTING} open marks")
                self.frames.append([])
            case "NONE":
                self.push(None)
            case "NEWTRUE" | "NEWFALSE":
                self.push(name == "NEWTRUE")
            case "EMPTY_TUPLE":
                self.push(())
            case "EMPTY_LIST":
                self.push([])
            case "EMPTY_DICT":
                self.push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(name[-1]))]
                self.push(tuple(reversed(items)))
            case "TUPLE":
                self.push(tuple(self.pop_mark()))
            case "APPEND" | "APPENDS":
                items = [self.pop()] if name == "APPEND" else self.pop_mark()
                self.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_mark()
                if len(items) % 2:
                    raise _damaged("a key without a value")
                _fill(self.top(dict), zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                self.push(_symbol(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = self.pop(str), self.pop(str)
                self.push(_symbol(f"{module}.{attribute}"))
            case "BINPERSID":
                self.push(self.storage(self.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, symbol = self.pop(tuple), self.pop(Symbol)
                self.push(_call(symbol.name, arguments))
            case "BUILD":
                state = self.pop()
                _build(self.top(), state)
            case "PROTO" | "FRAME" | "STOP":
                if name == "PROTO" and (count or argument > 5):
                    raise _damaged(f"protocol {argument} at position {position}")
            case _:
                raise ValueError(f"the pickle uses the operation {name}, which no state dict needs; nothing was executed")

    def push(self, item: Any) -> None:
        self.frames[-1].append(item)

    def pop(self, kind: type = object) -> Any:
        self.top(kind)
        return self.frames[-1].pop()

    def top(self, kind: type = object) -> Any:
        """The last item, which must be of a kind; what lies below a mark is out of reach."""
        if not self.frames[-1]:
            raise _damaged("an operation finds nothing on the stack")
        if not isinstance(self.frames[-1][-1], kind):
            raise _damaged(f"expected {kind.__name__} on the stack, got {_kind(self.frames[-1][-1])}")
        return self.frames[-1][-1]

    def pop_mark(self) -> list[Any]:
        if len(self.frames) == 1:
            raise _damaged("an operation finds no mark on the stack")
        return self.frames.pop()

    def result(self) -> Any:
        if len(self.frames) != 1 or len(self.frames[0]) != 1:
            raise _damaged("expected one object on the stack at the end")
        return self.frames[0][0]

    def storage(self, persistent: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, number of elements), and None in the legacy format."""
        match persistent:
            case ("storage", Symbol(name), str() | int() as key, str(), int(length)) | (
                "storage",
                Symbol(name),
                str() | int() as key,
                str(),
                int(length),
                None,
            ) if name in _STORAGES and length >= 0:
                storage = Storage(key, _STORAGES[name], length)
            case _:
                raise _damaged("expected the persistent id of a storage, got something else")
        if self.storages.setdefault(key, storage) != storage:
            raise _damaged(f"storage {describe(key)} has two types or lengths")
        return storage


_ELEMENTS = {
    "Double": np.dtype(np.float64),
    "Float": np.dtype(np.float32),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _ELEMENTS.items()} | {
    "torch.storage.UntypedStorage": np.dtype(np.uint8)
}
_DTYPES = {  # named in the pickle of a tensor whose type has no storage class of its own
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, None) or name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
}
_REBUILD_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_REBUILD_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_REBUILD_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_PARAMETER = "torch.nn.parameter.Parameter"
_TENSORS = ("torch.Tensor", *(f"torch.{name}Tensor" for name in _ELEMENTS))
_DICTS = ("collections.OrderedDict", "collections.Counter")
_ALLOWED = {
    *(*_STORAGES, *_DTYPES, *_REBUILD_TENSOR, *_REBUILD_PARAMETER, *_TENSORS, *_DICTS),
    *(_REBUILD_WITH_ATTRIBUTES, _PARAMETER, "torch.Size"),
}


def _symbol(name: str) -> Symbol:
    if name not in _ALLOWED:
        raise ValueError(
            f"the pickle asks for {describe(name)}; a state dict holds only tensors, and dicts, lists, numbers and text "
            "around them. It was not executed. Save model.state_dict() alone"
        )
    return Symbol(name)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What torch would get from calling an allowed name, as a description."""
    match arguments:
        case (Storage() as storage, offset, size, stride, *more) if name in _REBUILD_TENSOR and len(more) <= 4:
            if name.endswith("_v3"):
                return _tensor_of_dtype(storage, offset, size, stride, more)
            if any(more[2:3]):
                raise ValueError("a tensor is marked as conjugated or negated, which no weight is; save a copy of it")
            return Tensor(storage, storage.dtype, offset, size, stride)
        case (Tensor() as data, bool(), dict(), *_) if name in _REBUILD_PARAMETER and len(arguments) <= 4:
            return data
        case (Symbol(rebuild), Symbol("torch.Tensor" | "torch.nn.parameter.Parameter"), tuple(inner), _) if (
            name == _REBUILD_WITH_ATTRIBUTES and rebuild != _REBUILD_WITH_ATTRIBUTES
        ):
            return _call(rebuild, inner)
        case () if name in _TENSORS or name == _PARAMETER:
            return Tensor()
        case (Tensor() as data,) | (Tensor() as data, bool()) if name == _PARAMETER:
            return data
        case () if name in _DICTS:
            return {}
        case (dict(items),) if name in _DICTS:
            return dict(items)
        case (list(pairs),) if name in _DICTS and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            return _fill({}, pairs)  # Python 2 wrote ordered dicts so
        case (tuple(sizes),) if name == "torch.Size":
            return sizes
    raise _damaged(f"{name} with arguments that torch never gives it ({', '.join(map(_kind, arguments[:8]))})")


def _tensor_of_dtype(storage: Storage, offset: Any, size: Any, stride: Any, more: list[Any]) -> Tensor:
    match more:
        case [bool(), dict(), Symbol(dtype)] if dtype in _DTYPES:
            return Tensor(storage, _DTYPES[dtype], offset, size, stride)
    raise _damaged("a tensor without a known type")


def _build(target: Any, state: Any) -> None:
    """Attributes of a dict are dropped (`_metadata` of a state dict); torch 0.1 fills tensors here."""
    match target, state:
        case dict(), dict():
            return
        case Tensor(), (Storage() as storage, offset, size, stride):
            target.storage, target.dtype = storage, storage.dtype
            target.offset, target.size, target.stride = offset, size, stride
        case Tensor(), (Tensor() as data, _, _, _, _):
            target.storage, target.dtype = data.storage, data.dtype
            target.offset, target.size, target.stride = data.offset, data.size, data.stride
        case Tensor(), (bool(), bool(), _):
            return
        case _:
            raise _damaged(f"attributes of {_kind(target)} that torch never writes")


def _fill(target: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
    for key, value in pairs:
        if not isinstance(key, str | int | float | bytes | None):  # a nested tuple's hash can take for ever
            raise _damaged(f"expected text or a number as the key of a dict, got {_kind(key)}")
        target[key] = value
    return target


def describe(text: Any) -> str:
    """Text of the file for a message: short, and printable whatever it holds."""
    short = str(text)[:100]
    return short if short.isprintable() else ascii(short)


def _kind(item: Any) -> str:
    return describe(item.name) if isinstance(item, Symbol) else type(item).__name__


def _damaged(reason: str) -> ValueError:
    return ValueError(
        f"it is truncated, damaged or not written by torch.save; download or save it again (in the pickle: {reason})"
    )
