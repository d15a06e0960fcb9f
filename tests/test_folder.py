"""Folders of photographs: both layouts, labels and classes, and every way in which a folder can be laid out wrongly."""

import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ipjax.data.folder import imagenet_wnids, open_folder
from ipjax.data.pipeline import batches
from ipjax.data.preprocessing import Preprocessing

SMALL = Preprocessing(16, 12)


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(20, 24, 3), dtype=np.uint8)).save(path)


def flat(root, lines, names=("a.png", "b.png", "c.png"), label_file="labels.csv"):
    for seed, name in enumerate(names):
        save(root / name, seed)
    (root / label_file).write_text(lines)
    return root


def labelled(images):
    return {images.name(i): int(label) for i, label in enumerate(images.labels)}


def test_a_folder_a_class(tmp_path):
    for seed, name in enumerate(["dog/x.png", "cat/b.JPEG", "cat/deep/er/a.png", "cat/.hidden.png", ".git/a.png"]):
        save(tmp_path / name, seed)
    (tmp_path / "cat" / "notes.md").write_text("")
    (tmp_path / "README.md").write_text("")
    images = open_folder(tmp_path, SMALL)
    assert labelled(images) == {"cat/b.JPEG": 0, "cat/deep/er/a.png": 0, "dog/x.png": 1}
    assert (len(images), images.num_classes, images.shape) == (3, 2, (12, 12, 3))
    assert len(images.labels) == 3
    for i in range(3):
        assert np.array_equal(images[i], SMALL(tmp_path / images.name(i)))
    assert images[0].shape == images.shape
    assert np.array_equal(pickle.loads(pickle.dumps(images))[1], images[1])


def test_every_usual_ending_is_read(tmp_path):
    endings = ["jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff", "ppm", "JPG", "Png"]
    for number, ending in enumerate(endings):
        save(tmp_path / f"class{number % 2}" / f"{number}.{ending}")
    images = open_folder(str(tmp_path), SMALL)
    assert len(images) == len(endings)
    assert all(images[i].shape == (12, 12, 3) for i in range(len(images)))


def test_wnids_are_imagenets_classes(tmp_path):
    for wnid in ("n03888257", "n01440764", "n02102040"):
        save(tmp_path / wnid / "x.png")
    images = open_folder(tmp_path, SMALL)
    assert labelled(images) == {"n01440764/x.png": 0, "n02102040/x.png": 217, "n03888257/x.png": 701}
    assert images.num_classes == 1000
    save(tmp_path / "n00000000" / "x.png")  # no class of ImageNet's 1,000
    assert open_folder(tmp_path, SMALL).num_classes == 4


def test_the_list_of_wnids():
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)  # torchvision's order
    code = "from ipjax.data import folder; folder.imagenet_wnids(); "
    code += "import sys; print([m for m in sys.modules if m[:10] == 'tensorflow'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_folders_named_by_numbers_are_in_the_order_of_numbers(tmp_path):
    for name in ("0", "1", "2", "10"):
        save(tmp_path / name / "x.png")
    assert labelled(open_folder(tmp_path, SMALL)) == {"0/x.png": 0, "1/x.png": 1, "10/x.png": 3, "2/x.png": 2}


@pytest.mark.parametrize(
    ("label_file", "lines"),
    [
        ("labels.csv", "a.png,5\nc.png,0\nb.png,12\n"),
        ("labels.csv", "file,label\r\n\r\na.png, 5\r\nb.png, 12\r\nc.png, 0\r\n"),
        ("labels.CSV", '\ufefffilename,label\n"a.png","5"\n"b.png","12"\n"c.png","0"'),
        ("x.tsv", "a.png\t5\nb.png\t12\nc.png\t0\n"),
        ("x.txt", "a.png 5\nb.png   12\nc.png 0"),
        ("x.txt", "image class\na.png\t5\nb.png\t12\nc.png\t0"),
    ],
)
def test_a_label_file(label_file, lines, tmp_path):
    images = open_folder(flat(tmp_path, lines, label_file=label_file), SMALL)
    assert labelled(images) == {"a.png": 5, "b.png": 12, "c.png": 0}
    assert images.num_classes == 13
    assert np.array_equal(images[2], SMALL(tmp_path / "c.png"))


def test_labels_that_are_names(tmp_path):
    images = open_folder(flat(tmp_path, "a.png,tabby cat\nb.png,dog\nc.png,tabby cat"), SMALL)
    assert labelled(images) == {"a.png": 1, "b.png": 0, "c.png": 1}
    images = open_folder(flat(tmp_path, "a.png,n01443537\nb.png,n01440764\nc.png,n01440764"), SMALL)
    assert labelled(images) == {"a.png": 1, "b.png": 0, "c.png": 0}
    assert images.num_classes == 1000


def test_names_with_blanks_and_commas(tmp_path):
    names = ("a b.png", "c, d.png")
    images = open_folder(flat(tmp_path, '"c, d.png",1\na b.png,0', names), SMALL)
    assert labelled(images) == {"a b.png": 0, "c, d.png": 1}
    images = open_folder(flat(tmp_path / "blanks", "a b.png 1\nc.png 0", ("a b.png", "c.png"), "x.txt"), SMALL)
    assert labelled(images) == {"a b.png": 1, "c.png": 0}


def test_links_are_followed(tmp_path):
    save(tmp_path / "elsewhere" / "x.png", 1)
    save(tmp_path / "data" / "cat" / "x.png", 2)
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "dog")
    os.symlink(tmp_path / "data" / "cat", tmp_path / "data" / "cat" / "round")
    os.symlink(tmp_path / "elsewhere" / "x.png", tmp_path / "data" / "cat" / "y.png")
    images = open_folder(tmp_path / "data", SMALL)
    assert labelled(images) == {"cat/x.png": 0, "cat/y.png": 0, "dog/x.png": 1}
    assert np.array_equal(images[1], images[2])


def test_nothing_is_decoded_at_opening_and_what_cannot_be_read_is_named(tmp_path):
    save(tmp_path / "cat" / "good.png")
    save(tmp_path / "dog" / "cut.png")
    content = (tmp_path / "dog" / "cut.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "dog" / "text.jpg").write_text("no image")
    os.symlink(tmp_path / "nowhere", tmp_path / "dog" / "void.png")
    images = open_folder(tmp_path, SMALL)
    (batch,) = batches(images, range(4), 4)
    assert batch.mask.tolist() == [True, False, False, False]
    for i, name in enumerate(("cut.png", "text.jpg", "void.png"), 1):
        assert name in batch.unreadable[i]


# Errors


def empty(root):
    pass


def no_images(root):
    (root / "cat").mkdir()
    (root / "notes.md").write_text("")


def mixed(root):
    flat(root, "a.png 1\nb.png 0\nc.png 1")
    save(root / "cat" / "x.png")


def empty_class(root):
    save(root / "cat" / "x.png")
    save(root / "dog" / "x.png")
    (root / "eel").mkdir()


def two_label_files(root):
    flat(root, "a.png,1\nb.png,0\nc.png,1")
    (root / "more.txt").write_text("")


def no_label_file(root):
    save(root / "a.png")


def one_class(root):
    save(root / "cat" / "x.png")


def not_text(root):
    flat(root, "")
    (root / "labels.csv").write_bytes(b"a.png,\xff\xfe")


WRONG = [
    (empty, "expected a folder of images for each class, or images beside one label file"),
    (no_images, "found no image; images end in .bmp, .gif"),
    (mixed, "found both: a.png beside the folder cat with images; move one away"),
    (empty_class, "expected images in every class folder, found none in eel; remove or fill it"),
    (two_label_files, "expected one label file (.csv, .tsv or .txt) beside the images, found labels.csv, more.txt"),
    (no_label_file, "expected one label file (.csv, .tsv or .txt) beside the images, found none"),
    (one_class, "expected at least two classes, found one, cat"),
    (not_text, "labels.csv: expected text in UTF-8"),
    ("a.png,1\nc.png,0", "labels.csv: expected a line for every image, found none for b.png"),
    ("a.png,1\nb.png,0\nc.png,1\nd.png,0", "line 4: expected the name of an image in"),
    ("a.png,1\nb.png,0\nc.png,1\na.png,0", "line 4: expected one label an image, got 1 and 0 for a.png"),
    ("a.png,1\nb.png\nc.png,1", "line 2: expected a file name and a label, got 'b.png'"),
    ("a.png,1\nb.png,\nc.png,1", "line 2: expected a file name and a label, got 'b.png,'"),
    ("a.png,1,2\nb.png,0\nc.png,1", "line 1: expected a file name and a label, got 'a.png,1,2'"),
    ("d.png,1\na.png,1\nb.png,0\nc.png,1", "line 1: expected the name of an image in"),
    ("a.png,1\nb.png,1\nc.png,1", "expected at least two classes, found one, 1"),
    ("", "expected a line for every image, found none for a.png, b.png, c.png"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_wrong_folders(make, message, tmp_path):
    flat(tmp_path, make) if isinstance(make, str) else make(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        open_folder(tmp_path, SMALL)
    assert str(tmp_path) in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{tmp_path / 'absent'}: expected a folder of images, found nothing")
    ):
        open_folder(tmp_path / "absent", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="expected a folder of images, found a file"):
        open_folder(tmp_path / "file", SMALL)


def test_links_to_what_is_above_or_beside_count_no_image_twice(tmp_path):
    for seed, name in enumerate(["cat/a.png", "dog/b.png"]):
        save(tmp_path / name, seed)
    os.symlink(tmp_path, tmp_path / "cat" / "up")
    os.symlink(tmp_path / "dog", tmp_path / "cat" / "beside")
    assert labelled(open_folder(tmp_path, SMALL)) == {"cat/a.png": 0, "dog/b.png": 1}
    os.symlink(tmp_path / "dog", tmp_path / "hound")
    with pytest.raises(ValueError, match="found links to the same one"):
        open_folder(tmp_path, SMALL)


def test_a_pipe_is_no_image(tmp_path):
    for seed, name in enumerate(["cat/a.png", "dog/b.png"]):
        save(tmp_path / name, seed)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert labelled(open_folder(tmp_path, SMALL)) == {"cat/a.png": 0, "dog/b.png": 1}


@pytest.mark.parametrize("label", ["-1", "3000000000", "1" * 5000])
def test_numbers_that_are_no_labels(label, tmp_path):
    with pytest.raises(ValueError, match="whole numbers from 0 to 999999"):
        open_folder(flat(tmp_path, f"a.png,0\nb.png,1\nc.png,{label}"), SMALL)
