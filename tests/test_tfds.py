"""Data sets that the real builders prepared, read where TensorFlow cannot be imported."""

import shutil

import numpy as np
import pytest
from imagenet_files import run, write_downloaded, write_validation_tar

from ipjax.data.folder import imagenet_wnids
from ipjax.data.pipeline import batches
from ipjax.data.preprocessing import Preprocessing
from ipjax.data.tfds import open_tfds

SMALL = Preprocessing(32, 28)
# The first of TFDS's list, by the sorted names of the files: n01751748, n09193705, n02105855, n04263257
FIRST_LABELS = ["n01751748", "n09193705", "n02105855", "n04263257"]


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """The folder of data sets, and the files in the tar by name."""
    folder = tmp_path_factory.mktemp("imagenet")
    files = write_validation_tar(folder / "tars")
    command = ["-m", "experiments.prepare_data", "imagenet2012", "--manual-dir", folder / "tars", "--data-dir", folder]
    done = run(*command)
    assert "imagenet2012 is prepared, in" in done.stderr
    return folder, files


@pytest.fixture(scope="session")
def downloaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloaded")
    return folder, {
        "imagenette": write_downloaded("imagenette", "full-size-v2", folder, ["n03888257", "n01440764", "n02102040"]),
        "imagenet_v2": write_downloaded("imagenet_v2", "matched-frequency", folder, ["0", "7", "999", "100"]),
    }


def original(images, files, i):
    return files[images.name(i).split(" ")[0]]


def test_pixels_are_those_of_the_original_files(imagenet):
    folder, files = imagenet
    images = open_tfds("imagenet2012", SMALL, folder)
    assert (len(images), images.num_classes, images.shape) == (20, 1000, (28, 28, 3))
    unreadable = []
    for i in range(20):
        try:
            expected = SMALL(original(images, files, i))
        except ValueError:
            unreadable.append(images.name(i).split(" ")[0])
            with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000006\.JPEG \(imagenet2012, validation, record \d+\)"):
                images[i]
        else:
            assert np.array_equal(images[i], expected)
    assert unreadable == ["ILSVRC2012_val_00000006.JPEG"]


def test_labels_are_imagenets(imagenet):
    images = open_tfds("imagenet2012", SMALL, imagenet[0])
    labels = {images.name(i).split(" ")[0]: imagenet_wnids()[images.labels[i]] for i in range(20)}
    assert [labels[f"ILSVRC2012_val_{i:08d}.JPEG"] for i in (1, 2, 3, 4)] == FIRST_LABELS


READ = """
import importlib.abc, importlib.machinery, socket, sys

class Untouched(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "TensorFlow is there, and importing it an error; or it is not there."
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, self)
    def exec_module(self, module):
        print("imported", module.__name__)
        raise RuntimeError("imported tensorflow")

if sys.argv[2] == "installed":
    sys.meta_path.insert(0, Untouched())
else:
    find = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = classmethod(
        lambda cls, name, *rest: None if name.split(".")[0] == "tensorflow" else find(name, *rest)
    )

def connect(*_):
    print("connected")
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = connect

import numpy as np
from ipjax.data.preprocessing import Preprocessing
from ipjax.data.pipeline import batches
from ipjax.data.tfds import open_tfds

if __name__ == "__main__":
    images = open_tfds("imagenet2012", Preprocessing(32, 28), sys.argv[1])
    got = list(batches(images, range(20), 8))
    assert [len(batch.unreadable) for batch in got].count(1) == 1
    np.savez(sys.argv[3], images=np.concatenate([b.images for b in got]), labels=images.labels)
    assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("tensorflow", ["installed", "absent"])
def test_reading_needs_neither_tensorflow_nor_network_and_is_silent(imagenet, tensorflow, tmp_path):
    done = run("-c", READ, imagenet[0], tensorflow, tmp_path / "got.npz")
    assert (done.stdout, done.stderr) == ("", "")
    images, got = open_tfds("imagenet2012", SMALL, imagenet[0]), np.load(tmp_path / "got.npz")
    assert np.array_equal(got["labels"], images.labels)
    here = np.concatenate([batch.images for batch in batches(images, range(20), 8)])
    assert np.array_equal(got["images"], here)


def test_worker_processes_read_the_same(imagenet):
    images, index = open_tfds("imagenet2012", SMALL, imagenet[0]), list(range(19, -1, -1))
    threads, workers = (list(batches(images, index, 8, num_workers=n)) for n in (0, 2))
    for one, other in zip(threads, workers, strict=True):
        assert np.array_equal(one.images, other.images)
        assert one.unreadable == other.unreadable


def test_progress_is_tracked(imagenet):
    seen = []

    def track(records):
        for i in records:
            yield i
            seen.append(i)

    open_tfds("imagenet2012", SMALL, imagenet[0], track=track)
    assert seen == list(range(20))


def test_imagenette_has_imagenets_labels(downloaded):
    folder, files = downloaded
    images = open_tfds("imagenette", SMALL, folder)
    assert sorted(images.labels) == [0, 217, 701]
    assert images.num_classes == 1000
    for i, label in enumerate(images.labels):
        assert np.array_equal(images[i], SMALL(files["imagenette"][imagenet_wnids()[label]]))
        assert images.name(i) == f"imagenette, validation, record {i}"


def test_imagenettes_ten_classes():
    import tensorflow_datasets as tfds

    names = (tfds.core.tfds_path() / "image_classification/imagenette_labels.txt").read_text().split()
    index = [imagenet_wnids().index(wnid) for wnid in names]
    assert index == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_imagenet_v2(downloaded):
    folder, files = downloaded
    images = open_tfds("imagenet_v2", SMALL, folder)
    assert sorted(images.labels) == [0, 7, 100, 999]
    for i, label in enumerate(images.labels):
        assert np.array_equal(images[i], SMALL(files["imagenet_v2"][str(label)]))
    assert any(images.name(i).startswith("7/1.jpeg (imagenet_v2, test") for i in range(4))


# Errors


def test_not_prepared(tmp_path, caplog):
    for name in ("imagenet2012", "imagenette", "imagenet_v2"):
        message = (
            rf"{tmp_path}/{name}/.*found nothing; prepare it: python -m experiments.prepare_data {name} --data-dir {tmp_path}"
        )
        with pytest.raises(FileNotFoundError, match=message):
            open_tfds(name, SMALL, tmp_path)
    assert not caplog.records
    with pytest.raises(ValueError, match="name: expected one of imagenet2012, imagenet_v2, imagenette, got 'cifar10'"):
        open_tfds("cifar10", SMALL, tmp_path)


def test_another_file_format(imagenet, tmp_path):
    shutil.copytree(imagenet[0] / "imagenet2012", tmp_path / "imagenet2012")
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"expected array_record files in .*imagenet2012, found another file format"):
        open_tfds("imagenet2012", SMALL, tmp_path)


def test_no_validation_split(imagenet, tmp_path):
    shutil.copytree(imagenet[0] / "imagenet2012", tmp_path / "imagenet2012")
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace('"validation"', '"train"'))
    with pytest.raises(FileNotFoundError, match=r"expected the split validation in .*, found train; delete that folder"):
        open_tfds("imagenet2012", SMALL, tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_damaged_files(imagenet, damage, tmp_path):
    shutil.copytree(imagenet[0] / "imagenet2012", tmp_path / "imagenet2012")
    file = next(tmp_path.rglob("*.array_record-*"))
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:20000])
    with pytest.raises(OSError, match=r"imagenet2012, validation, record 0: damaged files .*; delete them and prepare"):
        open_tfds("imagenet2012", SMALL, tmp_path)
