"""Preparing ImageNet from its tars with the real builder, and what is said where something is missing."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from imagenet_files import ROOT, run, write_training_tar, write_validation_tar

from experiments.prepare_data import Config, main
from ipjax.data.preprocessing import Preprocessing
from ipjax.data.tfds import open_tfds


def prepare(*arguments):
    return run("-m", "experiments.prepare_data", *arguments, check=False)


def text(done):
    return " ".join(done.stderr.split())  # unwrapped


def test_missing_tars(tmp_path):
    done = prepare("imagenet2012", "--data-dir", tmp_path, "--manual-dir", tmp_path / "tars")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for said in ("error: expected", "ILSVRC2012_img_val.tar", "found no such folder", "https://image-net.org/download-images"):
        assert said in text(done)
    (tmp_path / "tars").mkdir()
    write_training_tar(tmp_path / "tars")
    with pytest.raises(FileNotFoundError, match=r"found \['ILSVRC2012_img_train\.tar'\]"):
        main(Config("imagenet2012", tmp_path / "tars", tmp_path))
    with pytest.raises(ValueError, match=r"manual_dir: imagenet2012 needs the folder that holds ILSVRC2012_img_val\.tar"):
        main(Config("imagenet2012", None, tmp_path))


def test_without_tensorflow(tmp_path, monkeypatch):
    write_validation_tar(tmp_path)
    monkeypatch.setattr("experiments.prepare_data.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"preparing needs TensorFlow .*: pip install -e '\.\[prepare\]'"):
        main(Config("imagenet2012", tmp_path, tmp_path))


def test_an_unknown_data_set():
    assert prepare("cifar10").returncode == 2


def test_a_killed_preparation_is_started_again_and_then_done(tmp_path):
    tars, data = tmp_path / "tars", tmp_path / "data"
    write_validation_tar(tars)
    write_training_tar(tars)
    command = ["-m", "experiments.prepare_data", "imagenet2012", "--manual-dir", str(tars), "--data-dir", str(data)]
    killed = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(data.rglob("incomplete.*")) and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (left,) = data.rglob("incomplete.*")
    with pytest.raises(FileNotFoundError, match="expected it prepared in"):
        open_tfds("imagenet2012", Preprocessing(), data)

    done = run(*command)
    assert f"{left.name} is left from a preparation that was interrupted" in text(done)
    assert "imagenet2012 is prepared, in" in text(done)
    assert len(open_tfds("imagenet2012", Preprocessing(), data)) == 20
    assert list(data.rglob("imagenet2012-train.array_record*"))

    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    shutil.rmtree(tars)
    again = run(*command)
    assert "imagenet2012 is prepared already, in" in text(again)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
