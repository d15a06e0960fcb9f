"""State dicts from files: equal to torch's own reading, and every way in which a hostile or damaged file can go wrong."""

import contextlib
import gzip
import io
import json
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from ports import readers

FORMATS = ("zip", "legacy")
DTYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
NEW_DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64]


def save(content, path, format="zip"):
    torch.save(content, path, _use_new_zipfile_serialization=format == "zip")
    return path


def values(dtype, *size):
    torch.manual_seed(0)
    return (torch.randn(size) * 50).abs().to(dtype)


def same(array, tensor):
    """Type, shape and bits."""
    assert array.dtype.name == str(tensor.dtype).removeprefix("torch.")
    assert array.shape == tuple(tensor.shape)
    bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.ascontiguousarray(array).tobytes() == bits


def check_against_torch(path):
    expected = torch.load(path, weights_only=True)
    arrays = readers.read(path)
    assert list(arrays) == list(expected)
    assert all(same(arrays[key], expected[key]) for key in expected)
    return arrays


# files that strangers write: pickles with claims of their own, in archives with claims of their own


class Claim:
    """Pickled as a call of `function`; the state, if any, as its attributes."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Persistent:
    """Pickled as a persistent id."""

    def __init__(self, *id):
        self.id = id[0] if len(id) == 1 else id


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Persistent) else None


def pickled(content, protocol=2):
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(content)
    return stream.getvalue()


def storage(length=6, kind=torch.FloatStorage, key="0"):
    return Persistent("storage", kind, key, "cpu", length)


def tensor(size=(2, 3), stride=(3, 1), offset=0, of=None):
    return Claim(torch._utils._rebuild_tensor_v2, of or storage(), offset, size, stride, False, OrderedDict())


BLOCK = np.arange(6, dtype=np.float32).tobytes()


def wrap(payload, path, format, *, block=BLOCK, byteorder=b"little", count=6, keys=None):
    """A weights file around one pickle, with one storage of six floats where the pickle asks for one."""
    keys = (("0",) if b"Storage" in payload else ()) if keys is None else keys
    if format == "zip":
        records = {"a/data.pkl": payload, "a/byteorder": byteorder, "a/data/0": block, "a/version": b"3\n"}
        path.write_bytes(archive([{"name": name, "data": data} for name, data in records.items()]))
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        tail = pickle.dumps(list(keys), 2) + b"".join(struct.pack("<q", count) + block for _ in keys)
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + payload + tail)
    return path


def archive(records, *, prefix=b""):
    """A zip file. A record may lie about itself: in the directory (`claims`), or in its local header (`local`)."""
    body, directory = bytearray(prefix), bytearray()
    for record in records:
        true = {
            "flags": 0,
            "method": 0,
            "crc": 0,
            "packed": len(record["data"]),
            "size": len(record["data"]),
            "offset": len(body),
            "name": record["name"],
        }
        local, central = true | record.get("local", {}), true | record.get("claims", {})
        fields = (local[key] for key in ("flags", "method"))
        body += struct.pack(
            "<4sHHHHHIIIHH", b"PK\3\4", 20, *fields, 0, 33, 0, local["packed"], local["size"], len(local["name"]), 0
        )
        body += local["name"].encode() + record["data"]
        fields = (central[key] for key in ("flags", "method"))
        directory += struct.pack("<4sHHHHHHIII", b"PK\1\2", 20, 20, *fields, 0, 33, 0, central["packed"], central["size"])
        directory += struct.pack("<HHHHHII", len(central["name"]), 0, 0, 0, 0, 0, central["offset"]) + central["name"].encode()
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(records), len(records), len(directory), len(body), 0)
    return bytes(body + directory + end)


def refused(path, message):
    """Reading is a ValueError that names the file and says why, soon and in little memory."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            readers.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path} ({path.stat().st_size:,} bytes) cannot be read as a weights file: ")
    assert len(str(caught.value)) < 1000
    assert peak < min(100 * path.stat().st_size, 2**26) + 2**21, f"{peak:,} bytes allocated"
    assert time.perf_counter() - start < 20
    return caught.value


# equal to torch


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES + NEW_DTYPES, ids=str)
def test_types(dtype, format, tmp_path):
    content = {"matrix": values(dtype, 3, 5), "scalar": values(dtype, 1)[0], "empty": values(dtype, 0, 4)}
    path = save(content, tmp_path / "weights.bin", format)
    if format == "zip" or dtype in DTYPES:
        check_against_torch(path)
    arrays = readers.read(path)  # torch saves new types in the old format too, but does not read them again
    assert list(arrays) == list(content) and all(same(arrays[key], content[key]) for key in content)


@pytest.mark.parametrize("format", FORMATS)
def test_views_of_storages(format, tmp_path):
    base = values(torch.float32, 4, 5, 6)
    content = OrderedDict(
        whole=base,
        transposed=base.permute(2, 0, 1),
        sliced=base[1:3, ::2, 2:],
        offset=base.reshape(-1)[7:],
        last=base.reshape(-1)[-1],
        expanded=base[:1, :1].expand(4, 3, 6),
        one=base[:1].transpose(0, 1),
        parameter=torch.nn.Parameter(base[0].clone()),
        frozen=torch.nn.Parameter(base[1].clone(), requires_grad=False),
    )
    arrays = check_against_torch(save(content, tmp_path / "weights.pth", format))
    assert arrays["expanded"].strides[0] == 0
    assert np.shares_memory(arrays["whole"], arrays["sliced"])


@pytest.mark.parametrize("format", FORMATS)
def test_state_dict_with_metadata_and_attributes(format, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    content = model.state_dict()
    assert content._metadata
    parameter, buffer = torch.nn.Parameter(torch.ones(2)), torch.ones(3)
    parameter.note, buffer.note = "kept by torch", "kept by torch"
    check_against_torch(save(content | {"parameter": parameter, "buffer": buffer}, tmp_path / "weights.pth", format))
    check_against_torch(save(content, tmp_path / "weights.pth", format))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("format", FORMATS)
def test_pickle_protocols(format, protocol, tmp_path):
    content = {"weight": values(torch.float32, 3, 5), "long name " * 30: torch.nn.Parameter(values(torch.float16, 300))}
    path = tmp_path / "weights.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=format == "zip")
    arrays = readers.read(path)
    assert list(arrays) == list(content) and all(same(arrays[key], content[key]) for key in content)


def test_many_tensors_need_long_memo_indices(tmp_path):
    check_against_torch(save({f"layer{i}": torch.full((2,), i) for i in range(300)}, tmp_path / "weights.pth"))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e5m2], ids=str)
def test_big_endian_archive(dtype, tmp_path):
    expected = values(dtype, 2, 3)
    bits = expected.reshape(-1).view(torch.uint8).numpy().reshape(6, -1)[:, ::-1].tobytes()
    if dtype == torch.float8_e5m2:
        claim = Claim(
            torch._utils._rebuild_tensor_v3, storage(6, torch.UntypedStorage), 0, (2, 3), (1, 2), False, OrderedDict(), dtype
        )
    else:
        kind = getattr(torch, torch.storage._dtype_to_storage_type_map()[dtype])
        claim = tensor((2, 3), (1, 2), of=storage(6, kind))
    path = wrap(pickled({"w": claim}), tmp_path / "big.pth", "zip", block=bits, byteorder=b"big")
    arrays = check_against_torch(path)
    assert same(arrays["w"], expected.reshape(-1)[[0, 2, 4, 1, 3, 5]].reshape(2, 3))
    assert arrays["w"].dtype.isnative
    refused(
        wrap(pickled({"w": claim}), path, "zip", block=bits, byteorder=b"middle"), "byte order little or big, got b'middle'"
    )


@pytest.mark.parametrize("format", FORMATS)
def test_torch_0_1_and_python_2(format, tmp_path):
    """Tensors and parameters were made empty and filled through their attributes; Python 2 wrote bytes and lists of pairs."""
    whole, path = [[0, 1, 2], [3, 4, 5]], tmp_path / "old.pth"
    read = check_against_torch if format == "zip" else readers.read  # torch wants one None more in the old format
    old = Claim(torch.FloatTensor, state=(storage(), 1, (2, 2), (2, 1)))
    rebuilt = Claim(torch._utils._rebuild_tensor, storage(), 0, (2, 3), (3, 1))
    arrays = read(wrap(pickled({"old": old, "rebuilt": rebuilt}), path, format))
    assert arrays["old"].tolist() == [[1, 2], [3, 4]] and arrays["rebuilt"].tolist() == whole
    # OrderedDict([["weight", Parameter filled with (data, gradient, hooks, requires_grad, volatile)]])
    filled = b"ctorch.nn.parameter\nParameter\n)\x81(" + TENSOR + b"N}\x88\x89tb"
    path = wrap(b"\x80\x02ccollections\nOrderedDict\n]]U\x06weighta" + filled + b"aa\x85R.", path, format)
    assert read(path)["weight"].tolist() == whole
    # Parameter(data) with the attributes (requires_grad, volatile, hooks)
    filled = b"ctorch.nn.parameter\nParameter\n" + TENSOR + b"\x85\x81(\x88\x89}tb"
    assert read(wrap(b"\x80\x02}U\x06weight" + filled + b"s.", path, format))["weight"].tolist() == whole


@pytest.mark.parametrize("format", FORMATS)
def test_arrays_are_views_of_the_file(format, tmp_path):
    path = save({f"w{i}": torch.ones(1000, 1000) for i in range(5)}, tmp_path / "weights.pth", format)
    tracemalloc.start()
    try:
        arrays = readers.read(path)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 2**20
    assert peak < (2**21 if format == "zip" else 2**25 + 2**21)  # the old format's pickles lie before the weights
    assert all(not array.flags.owndata and not array.flags.writeable for array in arrays.values())
    assert sum(float(array.sum()) for array in arrays.values()) == 5e6


def test_no_torch(tmp_path):
    paths = [save({"w": torch.ones(2)}, tmp_path / format, format) for format in FORMATS]
    code = (
        "import sys, pathlib, ports.readers as r; "
        "[r.read(pathlib.Path(path)) for path in sys.argv[1:]]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# safetensors


def write_safetensors(header, body, path, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


SAFETENSORS_DTYPES = [*DTYPES, *NEW_DTYPES, torch.float8_e8m0fnu, torch.complex64]


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES, ids=str)
def test_safetensors(dtype, tmp_path):
    content = {"matrix": values(dtype, 3, 5), "scalar": values(dtype, 1)[0], "empty": values(dtype, 0, 4)}
    safetensors.torch.save_file(content, tmp_path / "weights", metadata={"format": "pt"})
    arrays = readers.read(tmp_path / "weights")
    assert set(arrays) == set(content) and all(same(arrays[key], content[key]) for key in content)
    assert not arrays["matrix"].flags.owndata


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": entry()}, 2**63),
        ({"a": entry()}, 2**64 - 1),
        ({"a": entry()}, 10_000),
        ({"a": entry()}, 20),
        ({"a": entry(), "b": entry()}, None),
        ({"a": entry(end=4, shape=(1,)), "b": entry(begin=2, end=8)}, None),
        ({"a": entry(end=16, shape=(4,))}, None),
        ({"a": entry(end=4, shape=(1,))}, None),
        ({"a": entry(begin=8, end=0)}, None),
        ({"a": entry(begin=-8, end=0)}, None),
        ({"a": entry(dtype="F33")}, None),
        ({"a": entry(dtype="F64")}, None),
        ({"a": entry(shape=(2**62, 2**62))}, None),
        ({"a": entry(shape=(2**63, 2, 1))}, None),
        ({"a": entry(shape=(-2, -1))}, None),
        ({"a": {"dtype": "F32"}}, None),
        ({"a": 3}, None),
        ({"a": entry(shape=(1,) * 70 + (2,))}, None),
        (b"{" + b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (b'{"\xff": 1}', None),
        (b"{}", None),
    ],
)
def test_hostile_safetensors(header, length, tmp_path):
    refused(write_safetensors(header, bytes(8), tmp_path / "weights", length), "it is truncated, damaged")


def test_safetensors_type_without_numpy(tmp_path):
    path = write_safetensors({"a": entry(dtype="F4", shape=(16,))}, bytes(8), tmp_path / "weights")
    refused(path, "a has the type F4, expected one of BOOL, ")


def test_safetensors_header_is_bounded(tmp_path):
    refused(write_safetensors(b"{" + b" " * 2**23, b"", tmp_path / "weights"), "header of 8,388,609 bytes, expected at most")


# what is taken of a checkpoint


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("format", FORMATS)
def test_checkpoint(key, format, tmp_path):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    around = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "best": 0.5, "epoch": 3, "name": None}
    path = save({**around, key: model.state_dict()}, tmp_path / "checkpoint.pth", format)
    assert isinstance(torch.load(path)["schedule"]["milestones"], Counter)
    arrays = readers.read(path)
    assert list(arrays) == ["weight", "bias"] and same(arrays["weight"], model.weight)


@pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
def test_prefix_of_data_parallel(form, tmp_path):
    content = {"module.fc.weight": torch.ones(2), "module.bias": torch.zeros(1)}
    path = tmp_path / "weights"
    if form == "safetensors":
        safetensors.torch.save_file(content, path)
    else:
        save(content, path, form)
    assert set(readers.read(path)) == {"fc.weight", "bias"}
    save(content | {"other": torch.ones(1)}, path)
    assert set(readers.read(path)) == {"module.fc.weight", "module.bias", "other"}
    save({"state_dict": content}, path)
    assert set(readers.read(path)) == {"fc.weight", "bias"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "it holds Tensor that is not a state dict of tensors; save model.state_dict"),
        ([torch.zeros(3)], "it holds list that is not a state dict of tensors"),
        (3, "it holds int that is not a state dict of tensors"),
        ({0: torch.zeros(3)}, r"it holds dict that is not a state dict of tensors \('0': Tensor\)"),
        ({"w": torch.zeros(3), "epoch": 3}, r"not a state dict of tensors \('epoch': int\)"),
        ({"net": {"w": torch.zeros(3)}}, r"not a state dict of tensors \('net': dict\)"),
        (
            {"model": {"w": torch.zeros(3)}, "state_dict": {"v": torch.zeros(3)}},
            "under 2 of the keys state_dict, model_state_dict",
        ),
        ({"model": {}}, "not a state dict"),
        ({"model": {"w": [torch.zeros(3)]}}, "not a state dict"),
    ],
)
def test_something_else(content, message, format, tmp_path):
    refused(save(content, tmp_path / "weights.pth", format), message)


def test_empty_state_dict(tmp_path):
    assert readers.read(save({}, tmp_path / "weights.pth")) == {}


# files of another kind


def _tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


def _saved(write, *arguments):
    stream = io.BytesIO()
    write(stream, *arguments)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is truncated, damaged .*the file is empty"),
        (b"weights", r"expected safetensors or a state dict by torch\.save, the file starts with b'weights'"),
        (b"\x80", "it is truncated, damaged"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"<html><head>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (_tar(), r"a \.tar archive"),
        (gzip.compress(b"x", mtime=0), "a gzip file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5.*Keras"),
        (_saved(np.save, np.ones(3)), "a NumPy array"),
        (_saved(lambda stream: np.savez(stream, w=np.ones(3))), r"NumPy's \.npz"),
        (b'{"metadata": {}, "weight_map": {}}', "JSON"),
        (_saved(lambda stream: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)), "a TorchScript archive"),
        (archive([{"name": "model.weights.h5", "data": b"x"}]), "a Keras model"),
        (archive([{"name": "word/document.xml", "data": b"x"}]), r"0 records data\.pkl \(word/document\.xml\)"),
        (archive([]), r"0 records data\.pkl \(no records\)"),
        (archive([{"name": f"{name}/data.pkl", "data": b"N."} for name in "ab"]), r"2 records data\.pkl"),
        (pickle.dumps({"w": [1.0]}), "got another pickle"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2), "got another pickle .*1001"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_kind_of_file(data, message, tmp_path):
    (tmp_path / "weights.pth").write_bytes(data)
    refused(tmp_path / "weights.pth", message)


def test_missing_file_and_folder(tmp_path):
    for path, found in ((tmp_path / "none.pth", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(FileNotFoundError, match=re.escape(f"expected a file at {path}, found {found}")):
            readers.read(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = save({}, tmp_path / "weights.pth")
    monkeypatch.setattr(type(path), "open", lambda *_: (_ for _ in ()).throw(PermissionError("not yours")))
    refused(path, "not yours")


# hostile pickles


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(name, arguments):
    """A name, and a call of it with one tuple."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


TENSOR = pickled(tensor())[2:-1]
EXECUTING = {
    "os.system": lambda marker: call("os system", text(f"touch {marker}") + b"\x85"),
    "eval": lambda marker: call("builtins eval", text(f"open({marker!r}, 'w')") + b"\x85"),
    "stack global": lambda marker: text("os") + text("system") + b"\x93" + text(f"touch {marker}") + b"\x85R",
    "getattr chain": lambda marker: (
        call("builtins getattr", b"cposixpath\nos\n" + text("system") + b"\x86") + text(f"touch {marker}") + b"\x85R"
    ),
    "memo": lambda marker: text(f"touch {marker}") + b"q\x000cos\nsystem\nh\x00\x85R",
    "in a dict": lambda marker: b"}" + text("w") + call("os system", text(f"touch {marker}") + b"\x85") + b"s",
    "in a tensor's arguments": lambda marker: call(
        "torch._utils _rebuild_tensor_v2", call("os system", text(f"touch {marker}") + b"\x85") + b"\x85"
    ),
    "in a parameter's type": lambda marker: call(
        "torch._tensor _rebuild_from_type_v2", b"(cos\nsystem\nctorch\nTensor\n" + text(f"touch {marker}") + b"\x85}t"
    ),
    "inst": lambda marker: b"(" + text(f"touch {marker}") + b"ios\nsystem\n",
    "obj": lambda marker: b"(cos\nsystem\n" + text(f"touch {marker}") + b"o",
    "build": lambda marker: b"}" + call("os system", text(f"touch {marker}") + b"\x85") + b"b",
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", EXECUTING)
def test_nothing_is_executed(name, format, tmp_path):
    marker = tmp_path / "marker"
    payload = b"\x80\x02" + EXECUTING[name](str(marker)) + b"."
    with contextlib.suppress(Exception):
        pickle.loads(payload)
    assert marker.exists()  # the pickle would do harm
    marker.unlink()
    refused(
        wrap(payload, tmp_path / "weights.pth", format),
        r"the pickle (asks for (os|posix|builtins)\.\w+; a state dict holds only tensors.* It was not executed"
        "|uses the operation (INST|OBJ|POP), which no state dict needs; nothing was executed)",
    )
    assert not marker.exists()


@pytest.mark.parametrize("part", range(5))
def test_nothing_is_executed_in_any_pickle_of_the_old_format(part, tmp_path):
    parts = [pickle.dumps(content, 2) for content in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    parts[part] = b"\x80\x02" + EXECUTING["os.system"](str(tmp_path / "marker")) + b"."
    (tmp_path / "weights.pth").write_bytes(b"".join(parts))
    refused(tmp_path / "weights.pth", r"asks for os\.system")
    assert not (tmp_path / "marker").exists()


HUGE = struct.pack("<Q", 2**62)
ALLOWED = b"ctorch._utils\n_rebuild_tensor_v2\n"
MALFORMED = {
    "whole model": (
        b"ctorchvision.models.resnet\nResNet\n.",
        r"asks for torchvision\.models\.resnet\.ResNet; .*state_dict\(\)",
    ),
    "name with a dot": (text("torch") + text("_utils.os.system") + b"\x93.", r"asks for torch\._utils\.os\.system"),
    "allowed name as attribute": (text("collections.OrderedDict") + text("fromkeys") + b"\x93.", "OrderedDict.fromkeys"),
    "long name": (text("a" * 10**6) + text("b\n") + b"\x93.", "asks for aaaaa"),
    "name that no terminal prints": (text("\x1b[2J") + text("x") + b"\x93.", r"asks for '\\x1b\[2J\.x'"),
    "name of numbers": (b"K\x01K\x02\x93.", "expected str on the stack, got int"),
    "call of no name": (b"K\x01)R.", "expected Symbol on the stack, got int"),
    "call without tuple": (ALLOWED + b"]R.", "expected tuple on the stack, got list"),
    "wrong arguments": (ALLOWED + b")R.", "_rebuild_tensor_v2 with arguments that torch never gives it"),
    "wrong kinds of arguments": (ALLOWED + b"(K\x01K\x02K\x03K\x04t" + b"R.", r"never gives it \(int, int, int, int\)"),
    "parameter of a list": (call("torch._utils _rebuild_parameter", b"]\x89}\x87") + b".", "torch never gives it"),
    "dict of a number": (call("collections OrderedDict", b"K\x01\x85") + b".", "torch never gives it"),
    "dict of no pairs": (call("collections OrderedDict", b"]K\x01a\x85") + b".", "torch never gives it"),
    "size of a number": (call("torch Size", b"K\x01\x85") + b".", "torch never gives it"),
    "call of a storage": (call("torch FloatStorage", b"K\x01\x85") + b".", "torch never gives it"),
    "new object of a name": (b"ctorch\nFloatStorage\n)\x81.", "torch never gives it"),
    "rebuilding in rebuilding": (
        b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00ctorch\nTensor\nq\x01)q\x02"
        + b"(h\x00h\x01h\x02}tq\x02" * 5000
        + b"h\x00h\x02R.",
        "torch never gives it",
    ),
    "attributes of a list": (b"]}b.", "attributes of list"),
    "attributes of a dict": (b"}K\x01b.", "attributes of dict"),
    "attributes of a tensor": (b"}" + text("w") + TENSOR + b"}bs.", "attributes of Tensor"),
    "empty tensor": (b"}" + text("w") + call("torch FloatTensor", b")") + b"s.", "w has no values"),
    "conjugated": (
        pickled({"w": Claim(torch._utils._rebuild_tensor_v2, storage(), 0, (2,), (1,), False, OrderedDict(), {"conj": True})})[
            2:
        ],
        "conjugated or negated",
    ),
    "unknown type": (
        pickled(Claim(torch._utils._rebuild_tensor_v3, storage(), 0, (2,), (1,), False, OrderedDict(), "float8"))[2:],
        "a tensor without a known type",
    ),
    "underflow": (b"\x85.", "nothing on the stack"),
    "underflow of a tuple": (b"N\x87.", "nothing on the stack"),
    "underflow of an item": (b"}K\x01s.", "nothing on the stack"),
    "empty": (b".", "nothing on the stack|one object on the stack"),
    "two objects": (b"NN.", "one object on the stack at the end"),
    "open mark": (b"N(.", "one object on the stack at the end"),
    "object above a mark": (b"(N.", "one object on the stack at the end"),
    "no mark": (b"Nt.", "no mark on the stack"),
    "reach below a mark": (b"}(s.", "nothing on the stack"),
    "mark as list": (b"(N\x61.", "nothing on the stack"),
    "append to a dict": (b"}Na.", "expected list on the stack, got dict"),
    "item of a list": (b"]NNs.", "expected dict on the stack, got list"),
    "key without value": (b"}(Nu.", "a key without a value"),
    "list as key": (b"}]Ns.", "number as the key of a dict, got list"),
    "tuple as key": (b"}" + b")" + b"q\x00h\x00\x86" * 60 + b"Ns.", "number as the key of a dict, got tuple"),
    "memo of nothing": (b"h\x05.", "nothing at memo index 5"),
    "long memo of nothing": (b"j\xff\xff\xff\xff.", "nothing at memo index 4294967295"),
    "huge memo": (b"Nr\xff\xff\xff\xff.", "a memo index of 4294967295 at position 3"),
    "memo of an empty stack": (b"q\x00.", "nothing on the stack"),
    "memoize of an empty stack": (b"\x94.", "nothing on the stack"),
    "huge bytes": (b"\x8e" + HUGE + b"x.", "it is truncated, damaged"),
    "huge text": (b"\x8d" + HUGE + b"x.", "it is truncated, damaged"),
    "text of 4 GB": (b"X\xff\xff\xff\xffx.", "it is truncated, damaged"),
    "bytes of 4 GB": (b"B\xff\xff\xff\xffx.", "it is truncated, damaged"),
    "string of 2 GB": (b"T\xff\xff\xff\x7fx.", "it is truncated, damaged"),
    "string of negative length": (b"T\xff\xff\xff\xffx.", "it is truncated, damaged"),
    "huge integer": (b"\x8b\xff\xff\xff\x7fx.", "it is truncated, damaged"),
    "integer of negative length": (b"\x8b\xff\xff\xff\xffx.", "it is truncated, damaged"),
    "long integer": (b"\x8a\xff" + b"\x7f" * 255 + b".", "an integer of more than 16 bytes"),
    "longer integer": (b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".", "an integer of more than 16 bytes"),
    "huge frame": (b"\x95" + HUGE + b"N.", "a frame of 4611686018427387904 bytes"),
    "bad text": (b"X\x01\x00\x00\x00\xff.", "it is truncated, damaged"),
    "bad string": (b"U\x01\xff.", "it is truncated, damaged"),
    "name without end": (b"ctorch", "it is truncated, damaged"),
    "extension": (b"\x82\x01.", "uses the operation EXT1,"),
    "extensions": (b"\x84\x01\x00\x00\x00.", "uses the operation EXT4,"),
    "text persistent id": (b"P0\n.", "uses the operation PERSID,"),
    "bytearray": (b"\x96" + struct.pack("<Q", 1) + b"x.", "uses the operation BYTEARRAY8,"),
    "buffer": (b"\x97.", "uses the operation NEXT_BUFFER,"),
    "new object with keywords": (b"N)}\x92.", "uses the operation NEWOBJ_EX,"),
    "text integer": (b"I" + b"1" * 100 + b"\n.", "uses the operation INT,"),
    "long text integer": (b"L" + b"1" * 100_000 + b"\n.", "it is truncated, damaged"),
    "unknown operation": (b"\xff.", "it is truncated, damaged"),
    "protocol": (b"N\x80\x02.", "protocol 2 at position 3"),
    "deep marks": (b"(" * 2000 + b".", "more than 1000 open marks"),
    "deep tuples": (b")" + b"\x85" * 20_000 + b".", "it holds tuple that"),
    "deep lists": (b"]" * 20_000 + b"a" * 19_999 + b".", "it holds list that"),
    "dict in itself": (b"}q\x00" + text("model") + b"h\x00s.", r"not a state dict of tensors \('model': dict\)"),
    "list in itself": (b"]q\x00h\x00a.", "it holds list that"),
    "tensor in itself": (b"}" + text("w") + call("torch Tensor", b")") + b"q\x00(h\x00NNNNtbs.", "w has no values"),
    "doubled lists": (b"}" + text("w") + b"N" + b"q\x00h\x00\x86" * 200 + b"s.", r"\('w': tuple\)"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_pickle(name, format, tmp_path):
    payload, message = MALFORMED[name]
    refused(wrap(b"\x80\x04" + payload, tmp_path / "weights.pth", format), message)


def test_number_of_operations_is_bounded(tmp_path):
    path = wrap(b"N" + b"}" * 1_000_001, tmp_path / "weights.pth", "zip")
    with pytest.raises(ValueError, match="more than 1,000,000 operations"):  # not `refused`, which slows allocation down
        readers.read(path)


def test_oversized_pickle(tmp_path):
    path = wrap(b"\x80\x04" + text("a" * 2**24) + b".", tmp_path / "weights.pth", "zip")
    refused(path, "a pickle of 16,777,224 bytes")
    refused(wrap(b"\x80\x04" + text("a" * 2**24) + b".", path, "legacy"), "it is truncated, damaged")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "id",
    [
        "storage",
        5,
        None,
        (),
        ("storage",),
        ("module", torch.FloatStorage, "0", "cpu", 6),
        ("storage", "FloatStorage", "0", "cpu", 6),
        ("storage", torch.Size, "0", "cpu", 6),
        ("storage", torch.FloatStorage, ("0",), "cpu", 6),
        ("storage", torch.FloatStorage, "0", None, 6),
        ("storage", torch.FloatStorage, "0", "cpu", -6),
        ("storage", torch.FloatStorage, "0", "cpu", 6.0),
        ("storage", torch.FloatStorage, "0", "cpu", 6, ("1", 0, 6)),
        ("storage", torch.FloatStorage, "0", "cpu", 6, None, None),
    ],
    ids=str,
)
def test_persistent_id_of_wrong_shape(id, format, tmp_path):
    payload = b"\x80\x02" + pickle.dumps(id, 2)[2:-1] + b"Q."
    refused(wrap(payload, tmp_path / "weights.pth", format), "expected the persistent id of a storage")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("length", [5, 7, 2**31, 2**60, 2**63, 2**64, 2**100])
def test_storage_of_another_length(length, format, tmp_path):
    path = wrap(pickled({"w": tensor(of=storage(length))}), tmp_path / "weights.pth", format)
    refused(path, rf"expected {length:,} (of float32|elements) in storage 0|storage 0 ends at byte")
    if format == "legacy":
        path = wrap(pickled({"w": tensor(of=storage(length))}), path, format, count=min(length, 2**63 - 1))
        refused(path, "storage 0 ends at byte" if length > 6 else r"reaches to element 5 of a storage of 20 bytes")


def test_storages_that_do_not_match(tmp_path):
    path = tmp_path / "weights.pth"
    two = {"a": tensor(), "b": tensor(of=storage(kind=torch.IntStorage))}
    refused(wrap(pickled(two), path, "zip"), "storage 0 has two types or lengths")
    refused(wrap(pickled({"w": tensor(of=storage(key="../../x"))}), path, "zip"), "in storage ../../x, found no record")
    for keys in ((), ("1",), ("0", "1"), (0,), (("0",),)):
        refused(wrap(pickled({"w": tensor()}), path, "legacy", keys=keys), "the list of storages is not that of the tensors")
    refused(wrap(pickled({"w": tensor()}), path, "legacy", count=-1), "expected 6 elements in storage 0, found -1")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("size", "stride", "offset", "message"),
    [
        ((2, 3), (3, 1), 1, r"w reaches to element 6 of a storage of 24 bytes"),
        ((2, 3), (4, 1), 0, r"w reaches to element 6"),
        ((7,), (1,), 0, r"w reaches to element 6"),
        ((1,), (1,), 6, r"w reaches to element 6"),
        ((), (), 6, r"w reaches to element 6"),
        ((), (), 2**62, "w reaches to element"),
        ((2, 3), (3, -1), 2, "numbers from 0 to"),
        ((2, -3), (3, 1), 0, "numbers from 0 to"),
        ((2, 3), (3, 1), -1, "numbers from 0 to"),
        ((2, 3), (3, 1), 2**63, "numbers from 0 to"),
        ((2, 3), (3, 1), 2**64, "numbers from 0 to"),
        ((2**64,), (1,), 0, "numbers from 0 to"),
        ((2,), (2**64,), 0, "numbers from 0 to"),
        ((2,), (2**63 - 1,), 0, "w reaches to element"),
        ((2,), (2**62,), 0, "w reaches to element"),
        ((3,), (2**61,), 0, "w reaches to element"),
        ((2**62, 2**62), (0, 0), 0, "a size that no array can have"),
        ((2**62, 2**62), (1, 1), 0, "a size that no array can have"),
        ((0, 2**62, 2**62), (1, 1, 1), 0, "a size that no array can have"),
        ((2**40,), (0,), 0, "would take 4,398,046,511,104 bytes; save copies of expanded tensors"),
        ((2,), (1, 1), 0, "w has 1 axes, 2 strides"),
        ((1,) * 65, (1,) * 65, 0, "w has 65 axes"),
        (3, 1, 0, "numbers from 0 to"),
        ((2.0,), (1,), 0, "numbers from 0 to"),
        ((2,), (None,), 0, "numbers from 0 to"),
        (("2",), (1,), 0, "numbers from 0 to"),
        ((2,), (1,), None, "numbers from 0 to"),
    ],
)
def test_tensor_outside_of_its_storage(size, stride, offset, message, format, tmp_path):
    refused(wrap(pickled({"w": tensor(size, stride, offset)}), tmp_path / "weights.pth", format), message)


def test_expanded_tensors_are_bounded_before_bytes_are_swapped(tmp_path):
    payload = pickled({"w": tensor((2**40,), (0,))})
    refused(wrap(payload, tmp_path / "weights.pth", "zip", byteorder=b"big"), "would take 4,398,046,511,104 bytes")


@pytest.mark.parametrize("format", FORMATS)
def test_last_element_and_strides_without_meaning(format, tmp_path):
    claims = {"last": tensor((1,), (2**62,), 5), "all": tensor((2, 3), (3, 1)), "none": tensor((0, 2**40), (2**62, 5), 2**62)}
    arrays = readers.read(wrap(pickled(claims), tmp_path / "weights.pth", format))
    assert arrays["last"].tolist() == [5] and arrays["all"].sum() == 15 and arrays["none"].shape == (0, 2**40)


# hostile archives


def records(**lies):
    """A good archive with lies in its last record."""
    payload = pickled({"w": tensor()})
    return [
        {"name": "a/data.pkl", "data": payload},
        {"name": "a/version", "data": b"3\n"},
        {"name": "a/data/0", "data": BLOCK} | lies,
    ]


def test_archive_of_the_tests_is_good(tmp_path):
    (tmp_path / "weights.pth").write_bytes(archive(records()))
    assert check_against_torch(tmp_path / "weights.pth")["w"].sum() == 15


@pytest.mark.parametrize(
    ("lies", "message"),
    [
        ({"claims": {"size": 2**31}}, "record a/data/0 is compressed"),
        ({"claims": {"size": 2**31, "packed": 2**31}}, "a/data/0 of 2,147,483,648 bytes reaches out of the file"),
        ({"claims": {"size": 25, "packed": 25}}, "a/data/0 of 25 bytes reaches out of the file or into another"),
        ({"claims": {"method": 8}}, "record a/data/0 is compressed, which torch.save never does"),
        ({"local": {"method": 8}}, "record a/data/0 is compressed"),
        ({"claims": {"method": 99}}, "record a/data/0 is compressed"),
        ({"claims": {"flags": 1}}, "record a/data/0 is encrypted"),
        ({"local": {"flags": 1}}, "record a/data/0 is encrypted"),
        ({"claims": {"offset": 0}}, "record a/data/0 is not where the archive says|lies outside of the file or over another"),
        ({"claims": {"offset": 5}}, "is not where the archive says|lies outside of the file or over another"),
        ({"claims": {"offset": 2**32 - 2}}, "record a/data/0 lies outside of the file or over another"),
        ({"claims": {"name": "a/data.pkl"}}, "two records of the archive have the same name"),
        ({"claims": {"name": "a/data/1"}}, "record a/data/1 is not where the archive says"),
        ({"local": {"name": "a/data/1"}}, "record a/data/0 is not where the archive says"),
        ({"name": "b/data.pkl"}, r"2 records data\.pkl \(a/data\.pkl, a/version, b/data\.pkl\)"),
        ({"name": "b/data/0"}, "in storage 0, found no record"),
        ({"data": BLOCK[:-4]}, "expected 6 of float32 in storage 0, found a record of 20 bytes"),
    ],
)
def test_lies_in_an_archive(lies, message, tmp_path):
    (tmp_path / "weights.pth").write_bytes(archive(records(**lies)))
    refused(tmp_path / "weights.pth", message)


def test_overlapping_records(tmp_path):
    """One record's bytes hold another record: the way in which small archives claim to hold much."""
    inner = archive(records()[2:])
    data = archive([records()[0], {"name": "a/data/1", "data": inner}, {"name": "a/data/0", "data": BLOCK}])
    start = data.index(b"PK\3\4", data.index(b"a/data/1"))
    last = data.rindex(b"PK\1\2")
    lying = data[: last + 42] + struct.pack("<I", start) + data[last + 46 :]
    (tmp_path / "weights.pth").write_bytes(lying)
    refused(tmp_path / "weights.pth", "record a/data/1 of .* bytes reaches out of the file or into another")


def test_compressed_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/data.pkl", bytes(2**26))
    refused(tmp_path / "weights.pth", "record a/data.pkl is compressed")


def test_directory_of_records_is_bounded(tmp_path):
    many = archive(records())[:-22]
    directory = many.index(b"PK\1\2")
    filler = many[directory:] * 90_000
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, len(filler), directory, 0)
    (tmp_path / "weights.pth").write_bytes(many[:directory] + filler + end)
    refused(tmp_path / "weights.pth", f"a list of records of {len(filler):,} bytes, expected at most 8,388,608")


@pytest.mark.parametrize("cut", [b"PK\5\6", b"PK\1\2"])
def test_damaged_directory(cut, tmp_path):
    (tmp_path / "weights.pth").write_bytes(archive(records()).replace(cut, b"PK\0\0"))
    refused(tmp_path / "weights.pth", "it is truncated, damaged")


# damage


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A small and a larger file in each of the three formats."""
    folder = tmp_path_factory.mktemp("samples")
    found = {}
    for size, width in (("small", 2), ("large", 60)):
        content = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.BatchNorm1d(width)).state_dict()
        for format in FORMATS:
            found[format, size] = save(content, folder / f"{format}-{size}", format)
        safetensors.torch.save_file(content, folder / f"safetensors-{size}")
        found["safetensors", size] = folder / f"safetensors-{size}"
    return found


@pytest.mark.parametrize("format", [*FORMATS, "safetensors"])
def test_truncation(format, samples, tmp_path):
    path = tmp_path / "cut"
    for size, step in (("small", 1), ("large", 1024)):
        data = samples[format, size].read_bytes()
        for length in range(0, len(data), step):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match="cannot be read as a weights file"):
                readers.read(path)
        path.write_bytes(data)
        assert len(readers.read(path)) == 7
    assert len(data) > 10_000


@pytest.mark.parametrize("format", [*FORMATS, "safetensors"])
def test_flipped_bytes(format, samples, tmp_path):
    """Another value or another name at worst: a dict of as many readable arrays, or a ValueError."""
    good = samples[format, "small"].read_bytes()
    generator, outcomes = np.random.default_rng(0), Counter()
    for _ in range(400):
        data = bytearray(good)
        for place in generator.integers(len(data), size=generator.integers(1, 4)):
            data[place] ^= generator.integers(1, 256)
        (tmp_path / "flipped").write_bytes(data)
        try:
            arrays = readers.read(tmp_path / "flipped")
        except ValueError as error:
            assert str(error).startswith(str(tmp_path / "flipped"))
            outcomes["refused"] += 1
        else:
            assert len(arrays) == 7 and all(isinstance(key, str) for key in arrays)
            assert sum(np.ascontiguousarray(array).nbytes for array in arrays.values()) < 10_000
            outcomes["read"] += 1
    assert min(outcomes["refused"], outcomes["read"]) > 20
