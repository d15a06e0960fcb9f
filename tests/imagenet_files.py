"""Tiny data sets in the form that TensorFlow Datasets prepares: ImageNet from tars, the others by its own writer."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
ORIENTATION = 0x0112  # the EXIF tag


def photograph(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8))
    return coarse.resize((60 + 3 * seed, 70), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def kinds() -> dict[str, bytes]:
    """Files as ImageNet has them, and worse: all are named .JPEG there."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    return {
        "plain": encoded(photograph(0)),
        "grey": encoded(photograph(1).convert("L")),
        "cmyk": encoded(photograph(2).convert("CMYK")),
        "png": encoded(photograph(3), "PNG"),
        "turned": encoded(photograph(4), exif=turned),
        "truncated": encoded(photograph(5))[:600],
        "progressive": encoded(photograph(6), progressive=True, quality=95),
    }


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def write_validation_tar(folder: Path) -> dict[str, bytes]:
    """Writes `ILSVRC2012_img_val.tar`; returns what is in it by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"ILSVRC2012_val_{i:08d}.JPEG": content for i, content in enumerate(kinds().values(), 1)}
    files |= {f"ILSVRC2012_val_{i:08d}.JPEG": encoded(photograph(i)) for i in range(len(files) + 1, 21)}
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for name in reversed(files):  # the builder has to sort them
            add(tar, name, files[name])
    return files


def write_training_tar(folder: Path) -> None:
    """Writes `ILSVRC2012_img_train.tar`, a tar of a tar for each of two classes."""
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in ("n01440764", "n02102040"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for i in range(3):
                    add(tar, f"{wnid}_{i}.JPEG", encoded(photograph(i)))
            add(outer, f"{wnid}.tar", inner.getvalue())


WRITE = """
import sys
from pathlib import Path
import tensorflow_datasets as tfds

# The builder as it is, with its own features; only what it would have downloaded is replaced.
name, config, data_dir, source, file_format = sys.argv[1:]
builder = tfds.builder(f"{name}/{config}", data_dir=data_dir, file_format=file_format)
builder._split_generators = lambda manager, *_: (
    [tfds.core.SplitGenerator(name="validation", gen_kwargs={"datapath": source})] if name == "imagenette"
    else [tfds.core.SplitGenerator(name="test", gen_kwargs={"imagenet_v2_root": source})]
)
builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
"""


def write_downloaded(name: str, config: str, data_dir: Path, classes: list[str], file_format: str = "array_record") -> dict:
    """Prepares imagenette or imagenet_v2 from image folders as their archives hold them; returns the files by class."""
    ending = "JPEG" if name == "imagenette" else "jpeg"
    source = data_dir / f"{name}_source"
    files = {}
    for number, wnid in enumerate(classes):
        content = encoded(photograph(number))
        (source / wnid).mkdir(parents=True)
        (source / wnid / f"{number}.{ending}").write_bytes(content)
        files[wnid] = content
    run("-c", WRITE, name, config, data_dir, source, file_format)
    return files


def run(*arguments, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=check, cwd=ROOT, timeout=120
    )
