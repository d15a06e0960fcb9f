"""The store: what is read is what was written, whole or not at all."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ipjax.store import Shard, Store, explained, shards

SETTINGS = {"weights": "0123", "layers": ("conv1", "fc"), "num_steps": 8}


def _arrays(seed, rows=5):
    rng = np.random.default_rng(seed)
    return {
        "features/activation/conv1": rng.standard_normal((rows, 7)).astype(np.float32),
        "position": np.arange(rows, dtype=np.int32),
    }


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", SETTINGS)


def test_shards_cover_every_image_once():
    for num_images, size in ((10, 3), (9, 3), (2, 5), (1, 1)):
        covered = [i for shard in shards(num_images, size) for i in range(shard.start, shard.stop)]
        assert covered == list(range(num_images))


def test_reads_what_was_written(store):
    wanted = shards(10, 5)
    assert store.check(wanted) == (list(wanted), [])
    for shard in wanted:
        store.write(shard, _arrays(shard.start), {str(shard.start): "cat.jpg: cut off"})
    assert store.check(wanted) == ([], [])
    for name in _arrays(0):
        np.testing.assert_array_equal(store.read(wanted, name), np.concatenate([_arrays(0)[name], _arrays(5)[name]]))
    assert store.notes(wanted) == {"0": "cat.jpg: cut off", "5": "cat.jpg: cut off"}


def test_arrays_that_do_not_lie_in_order(store):
    (shard,) = shards(3, 3)
    columns = np.arange(12, dtype=np.float32).reshape(4, 3).T
    store.write(shard, {"transposed": columns, "every other": columns[:, ::2]})
    assert store.check([shard]) == ([], [])
    np.testing.assert_array_equal(store.read([shard], "transposed"), columns)
    np.testing.assert_array_equal(store.read([shard], "every other"), columns[:, ::2])


def test_shard_without_a_row(store):
    (shard,) = shards(5, 5)
    store.write(shard, _arrays(0, rows=0))
    assert store.check([shard]) == ([], [])
    assert store.read([shard], "features/activation/conv1").shape == (0, 7)


def test_every_changed_byte_is_found(store):
    (shard,) = shards(5, 5)
    store.write(shard, _arrays(0), {"3": "dog.jpg"})
    path = store.folder / shard.file
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert store.check([shard]) == ([shard], [shard]), at
        assert not path.exists()


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_a_file_that_was_cut_off_is_computed_again(store, length):
    (shard,) = shards(5, 5)
    store.write(shard, _arrays(0))
    path = store.folder / shard.file
    path.write_bytes(path.read_bytes()[:length])
    assert store.check([shard]) == ([shard], [shard])


def test_other_settings_are_refused_with_the_difference(store):
    (shard,) = shards(5, 5)
    store.write(shard, _arrays(0))
    other = replace(store, settings=SETTINGS | {"num_steps": 9, "weights": "4567"})
    with pytest.raises(ValueError, match=r"weights was '0123', is '4567'; num_steps was 8, is 9"):
        other.check([shard])
    assert store.check([shard]) == ([], [])


def test_left_overs_of_a_killed_run_are_removed(store):
    (shard,) = shards(5, 5)
    store.check([shard])
    (store.folder / f".{shard.file}.123.part").write_bytes(b"half")
    assert store.check([shard]) == ([shard], [])
    assert list(store.folder.iterdir()) == []


def test_a_write_that_fails_leaves_the_shard_before_it(store, monkeypatch):
    (shard,) = shards(5, 5)
    store.write(shard, _arrays(0))

    def fails(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space left on device; finished shards are kept"):
        store.write(shard, _arrays(1))
    monkeypatch.undo()
    assert [path.name for path in store.folder.iterdir()] == [shard.file]
    np.testing.assert_array_equal(store.read([shard], "features/activation/conv1"), _arrays(0)["features/activation/conv1"])


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "features").write_text("precious")
    with pytest.raises(OSError, match="could not make or read the folder"):
        Store(tmp_path / "features", SETTINGS).check([Shard(0, 1)])


_ON_A_SMALL_DISK = """
import pathlib, sys, numpy as np
from ipjax.store import Store, shards
store = Store(pathlib.Path(sys.argv[1]) / "features", {})
wanted = shards(20, 1)
written = 0
try:
    for shard in wanted:
        store.write(shard, {"a": np.zeros((1, 50_000), np.float32)})
        written += 1
except OSError as error:
    print(error)
missing, damaged = store.check(wanted)
assert 0 < written < 20 and len(missing) == 20 - written and not damaged, (written, missing, damaged)
assert len(list(store.folder.iterdir())) == written
"""


def test_full_disk(tmp_path):
    done = on_a_disk_of("1m", tmp_path, [sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert "No space left on device; finished shards are kept" in done.stdout


def on_a_disk_of(size, folder, command):
    """Runs a command that sees a small tmpfs in place of a folder."""
    mount = f'mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"'
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        possible = subprocess.run([*enter, f"mount -t tmpfs tmpfs {folder}"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("needs a mount namespace")
    return subprocess.run([*enter, mount, "sh", *command], capture_output=True, text=True)


def test_an_error_is_explained_once():
    with pytest.raises(OSError, match="shards are kept") as raised, explained("outer"), explained("inner"):
        raise OSError(28, "No space left on device")
    assert str(raised.value).startswith("inner: No space left on device") and str(raised.value).count("kept") == 1
