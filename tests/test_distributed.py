"""The main program on one device, on many and on two hosts: the same features, the same results, each shard written once."""

import csv
import time

import numpy as np
import pytest
from emulated_devices import check, free_port, kill, start
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import ports
from ipjax.store import shards

LAYERS = ("layer1.1", "avgpool")
NUM_IMAGES, SHARD = 70, 12  # six shards, the last one of ten images, which neither four nor eight divide
SHARDS = tuple(shard.file for shard in shards(NUM_IMAGES, SHARD))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    save_file(ports.export(ports.load("resnet18", "random", width=4, num_classes=10, seed=0)), folder / "net.safetensors")
    return folder


def program(folder, out, *distributed, devices):
    settings = {"network": "resnet18", "weights": folder / "net.safetensors", "num-images": NUM_IMAGES, "num-steps": 2}
    settings |= {"shard-size": SHARD, "compiled": folder / f"compiled{devices}", "out": out}
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return start("experiments.resnet_ip", *arguments, "--layers", *LAYERS, *distributed, devices=devices)


def two_hosts(folder, *outs):
    """Two processes of two devices each; both write to the one folder, or each to its own."""
    address = ("--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id")
    return [program(folder, out, *address, str(host), devices=2) for host, out in enumerate((outs[0], outs[-1]))]


@pytest.fixture(scope="module")
def one_device(folder):
    check(program(folder, folder / "one", devices=1))
    return folder / "one"


@pytest.fixture(scope="module")
def two_processes(folder):
    check(*two_hosts(folder, folder / "two"))
    return folder / "two"


def files(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def rows(out):
    with (out / "layers.csv").open() as file:
        return list(csv.DictReader(file))


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def assert_same(out, expected):
    assert files(out) == files(expected)
    for name in SHARDS:
        found, wanted = load_file(out / "features" / name), load_file(expected / "features" / name)
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            if np.issubdtype(values.dtype, np.integer):
                np.testing.assert_array_equal(found[key], values, key)
            elif not key.startswith("gap/"):  # which is rounding error
                np.testing.assert_allclose(found[key], values, rtol=0, atol=1e-5 * np.abs(values).max(), err_msg=key)
    assert len(rows(out)) == len(rows(expected)) == (4 * 2 + 3) * len(LAYERS)  # by KDE and probe; three by Rényi
    for found, wanted in zip(rows(out), rows(expected), strict=True):
        for column in wanted:
            if number(wanted[column]) is None:
                assert found[column] == wanted[column], column
            elif column != "completeness_gap":
                assert number(found[column]) == pytest.approx(number(wanted[column]), rel=1e-4, abs=1e-4), column


@pytest.mark.slow
def test_eight_devices(folder, one_device):
    check(program(folder, folder / "eight", devices=8))
    assert_same(folder / "eight", one_device)


@pytest.mark.slow
def test_two_processes(one_device, two_processes):
    assert_same(two_processes, one_device)


@pytest.mark.slow
def test_each_process_writes_its_shards_and_the_first_one_all_else(folder, two_processes):
    outs = (folder / "first", folder / "second")
    check(*two_hosts(folder, *outs))
    written = [{f"features/{name}" for name in SHARDS[host::2]} for host in range(2)]
    assert files(outs[1]) == written[1]
    assert files(outs[0]) == files(two_processes) - written[1]
    for host, out in enumerate(outs):
        for name in written[host]:
            assert_same_shard(out / name, two_processes / name)
    for name in ("layers.csv", "channels.csv"):
        assert (outs[0] / name).read_bytes() == (two_processes / name).read_bytes()


def assert_same_shard(path, expected):
    """Equal to the bit; only the order within a safetensors header differs from process to process."""
    with safe_open(path, "np") as found, safe_open(expected, "np") as wanted:
        assert found.metadata() == wanted.metadata()  # with the checksum of all arrays
    assert load_file(path).keys() == load_file(expected).keys()


def test_hosts_agree_and_wait_for_each_other(tmp_path):
    port, out = free_port(), str(tmp_path / "run")
    check(*[start("sharded_preparation.py", port, str(host), out, devices=1) for host in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize("done", [2, len(SHARDS)])
def test_two_processes_that_are_killed_go_on_to_the_same_bytes(folder, two_processes, done):
    out = folder / f"killed{done}"
    running = two_hosts(folder, out)
    deadline = time.monotonic() + 200
    try:
        while len(list((out / "features").glob("0*"))) < done:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in running), running[0].communicate(timeout=60)
            time.sleep(0.02)
    finally:
        kill(*running)
    assert not (out / "layers.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "features").glob("0*")}
    check(*two_hosts(folder, out))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert files(out) == files(two_processes)
    for name in SHARDS:
        assert_same_shard(out / "features" / name, two_processes / "features" / name)
    for name in ("layers.csv", "channels.csv"):
        assert (out / name).read_bytes() == (two_processes / name).read_bytes(), name
