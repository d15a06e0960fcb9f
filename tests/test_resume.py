"""Runs that are killed, damaged or stopped, started again: the same bytes as of a run that was left alone."""

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import ports
from experiments.resnet_ip import main
from experiments.runner import Config
from tests.test_store import on_a_disk_of

RESULTS = ("layers.csv", "channels.csv")
SMALL = Config(network="resnet18", num_images=64, num_steps=1, layers=("avgpool",), shard_size=4, ablation=False)


def _write_weights(path, seed=0):
    save_file(ports.export(ports.load("resnet18", "random", width=4, num_classes=10, seed=seed)), path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    weights = folder / "tiny.safetensors"
    _write_weights(weights)
    config = replace(SMALL, weights=str(weights), compiled=folder / "compiled", out=folder / "whole")
    _in_process(config).join()
    assert (config.out / "layers.csv").exists()
    return config


def _in_process(config, function=main):
    """A process that has imported what the run needs and has computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.runner"])
    process = context.Process(target=function, args=(config,))
    process.start()
    return process


def _same_results(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


def _kill_and_resume(whole, folder, times, seed):
    """How many of some runs, each killed at a random moment and started again, end otherwise than one that was left alone."""
    began = time.monotonic()
    _in_process(replace(whole, out=folder / "timed")).join()
    usual, rng, killed, differences = time.monotonic() - began, random.Random(seed), 0, 0
    for i in range(times):
        config = replace(whole, out=folder / f"run{i}")
        process = _in_process(config)
        process.join(rng.uniform(0, usual))
        killed += process.is_alive()
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        resumed = _in_process(config)
        resumed.join()
        assert resumed.exitcode == 0
        assert not list((config.out / "features").glob(".*"))
        differences += not _same_results(whole.out, config.out)
    assert killed > 0
    return differences


def test_a_killed_run_goes_on_with_the_shards_that_are_there(whole, tmp_path, capfd):
    config = replace(whole, out=tmp_path / "run")
    features = config.out / "features"
    process, deadline = _in_process(config), time.monotonic() + 200
    while len(list(features.glob("0*"))) < 6:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (config.out / "layers.csv").exists()
    kept = sorted(features.glob("0*"))
    times = {path: path.stat().st_mtime_ns for path in kept}
    kept[3].unlink()
    damaged = kept[5].read_bytes()
    kept[5].write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    capfd.readouterr()
    main(config)
    shown = capfd.readouterr().err
    assert f"{kept[5].name} was damaged and is computed again" in shown
    assert f"{len(kept) - 2} of 16 shards are there already" in shown
    assert {path for path in kept if path.stat().st_mtime_ns != times[path]} == {kept[3], kept[5]}
    assert not list(features.glob(".*"))
    assert _same_results(whole.out, config.out)


@pytest.mark.slow
def test_fifty_kills(whole, tmp_path):
    assert _kill_and_resume(whole, tmp_path, 50, seed=1) == 0


@pytest.mark.slow
def test_weights_that_changed_under_their_name_are_refused(whole, tmp_path):
    weights = tmp_path / "mine.safetensors"
    _write_weights(weights)
    config = replace(whole, weights=str(weights), out=tmp_path / "run")
    main(config)
    before = (config.out / "layers.csv").read_bytes()
    _write_weights(weights, seed=1)
    with pytest.raises(ValueError, match=r"computed with other settings \(weights was '"):
        main(config)
    assert (config.out / "layers.csv").read_bytes() == before


@pytest.mark.slow
def test_full_disk_keeps_the_finished_shards(whole, tmp_path):
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from experiments.resnet_ip import main; from tests.test_resume import SMALL\n"
        "out = Path(sys.argv[1]) / 'run'\n"
        f"config = replace(SMALL, weights={whole.weights!r}, compiled=Path({str(whole.compiled)!r}), out=out)\n"
        "try: main(config)\n"
        "except OSError as error: print(error)\n"
        "shards = list((config.out / 'features').iterdir())\n"
        "assert shards and not any(path.name.startswith('.') for path in shards), shards\n"
        f"import shutil; shutil.copytree(config.out, {str(tmp_path / 'moved')!r})\n"
    )
    (tmp_path / "disk").mkdir()
    done = on_a_disk_of("64k", tmp_path / "disk", [sys.executable, "-c", code, str(tmp_path / "disk")])
    assert done.returncode == 0, done.stderr
    assert "No space left on device; finished shards are kept" in done.stdout
    moved = tmp_path / "moved"
    assert len(list((moved / "features").iterdir())) < 16
    main(replace(whole, out=moved))
    assert _same_results(whole.out, moved)


def folder_of_images(path, num_classes, per_class, unreadable=0):
    rng = np.random.default_rng(0)
    for c in range(num_classes):
        (path / f"class{c}").mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (40, 36, 3), np.uint8)
            pixels[: 4 * c + 4] //= 4
            Image.fromarray(pixels).save(path / f"class{c}" / f"{i}.jpg")
    for i in range(unreadable):
        bad = path / f"class{i}" / f"{i}.jpg"
        bad.write_bytes(bad.read_bytes()[:200])


@pytest.mark.slow
def test_unreadable_images_are_left_out_and_named(whole, tmp_path):
    folder_of_images(tmp_path / "images", 4, 50, unreadable=2)
    config = replace(
        whole, data=str(tmp_path / "images"), num_images=None, resize=32, crop=32, shard_size=64, out=tmp_path / "run"
    )
    main(config)
    environment = json.loads((config.out / "environment.json").read_text())
    assert len(environment["unreadable"]) == 2
    assert all(f"{i}.jpg" in reason for i, reason in enumerate(environment["unreadable"]))
    with (config.out / "layers.csv").open() as file:
        assert {row["num_samples"] for row in csv.DictReader(file)} == {"198"}
    before = (config.out / "layers.csv").read_bytes()
    main(config)
    assert json.loads((config.out / "environment.json").read_text())["unreadable"] == environment["unreadable"]
    assert (config.out / "layers.csv").read_bytes() == before
    for i in range(2):
        Image.new("RGB", (40, 36), (99, 50 * i, 9)).save(tmp_path / "images" / f"class{i}" / f"{i}.jpg")
    main(config)
    assert json.loads((config.out / "environment.json").read_text())["unreadable"] == []


def test_more_than_a_hundredth_unreadable_stops_the_run(whole, tmp_path):
    folder_of_images(tmp_path / "images", 4, 50, unreadable=3)
    config = replace(whole, data=str(tmp_path / "images"), num_images=None, resize=32, crop=32, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"3 images cannot be read, more than 1% of 200: .*0.jpg"):
        main(config)
    assert not (Path(config.out) / "layers.csv").exists()
