"""Preprocessing: torchvision's bytes before normalisation and its numbers after it, for every kind of image file."""

import io
import re
import subprocess
import sys
import warnings
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image
from torch_reference import torchvision
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import functional as F
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from ipjax.data.preprocessing import Preprocessing

assert torchvision  # imported first: torch_reference mends its import where the operators are missing

SETTINGS = [(256, 224), (232, 224), (32, 32), (20, 24)]
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
ORIENTATION = 0x0112  # the EXIF tag


def reference(image, resize, crop):
    return np.asarray(F.center_crop(F.resize(image, [resize]), [crop]))


def reference_v2(image, resize, crop):
    transforms = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop), v2.PILToTensor()])
    return np.moveaxis(transforms(image).numpy(), 0, -1)


def photograph(name):
    return resources.files("sklearn.datasets") / "images" / name


def small_photograph(width=90, height=61):
    return pil_loader(str(photograph("china.jpg"))).resize((width, height))


def encoded(image, format, **settings):
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize(("resize", "crop"), SETTINGS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_equal_torchvisions(name, resize, crop):
    path, preprocessing = photograph(name), Preprocessing(resize, crop)
    loaded = pil_loader(str(path))
    expected = reference(loaded, resize, crop)
    pixels = preprocessing.pixels(path)
    assert pixels.shape == (crop, crop, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)
    assert np.array_equal(pixels, reference_v2(loaded, resize, crop))
    for source in (str(path), path.read_bytes(), loaded, np.asarray(loaded), Image.open(path)):
        assert np.array_equal(preprocessing.pixels(source), expected)

    normalised = preprocessing(path)
    theirs = ImageClassification(resize_size=resize, crop_size=crop)(loaded)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, np.moveaxis(theirs.numpy(), 0, -1), rtol=0, atol=1e-6)


def test_own_mean_and_std_equal_torchvisions():
    mean, std, image = (0.1, 0.5, 0.9), (1.0, 0.3, 0.05), small_photograph()
    theirs = ImageClassification(resize_size=40, crop_size=33, mean=mean, std=std)(image)
    np.testing.assert_allclose(
        Preprocessing(40, 33, mean, std)(image), np.moveaxis(theirs.numpy(), 0, -1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("weights", "preprocessing"),
    [
        ("ResNet50_Weights.IMAGENET1K_V1", Preprocessing()),
        ("ResNet50_Weights.IMAGENET1K_V2", Preprocessing(resize=232)),
        ("VGG16_Weights.IMAGENET1K_V1", Preprocessing()),
    ],
)
def test_defaults_are_those_of_the_published_weights(weights, preprocessing):
    enum, name = weights.split(".")
    theirs = getattr(torchvision.models, enum)[name].transforms()
    assert (preprocessing.resize, preprocessing.crop) == (theirs.resize_size[0], theirs.crop_size[0])
    assert (preprocessing.mean, preprocessing.std) == (tuple(theirs.mean), tuple(theirs.std))


def test_random_sizes_equal_torchvisions():
    rng = np.random.default_rng(3)
    for trial in range(400):
        height, width = rng.integers(1, 90, size=2)
        resize, crop = rng.integers(1, 60, size=2)
        image = Image.fromarray(noise(height, width, seed=trial))
        pixels = Preprocessing(int(resize), int(crop)).pixels(np.asarray(image))
        assert np.array_equal(pixels, reference(image, int(resize), int(crop))), (height, width, resize, crop)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (3, 700), (700, 3), (29, 999)])
@pytest.mark.parametrize(("resize", "crop"), SETTINGS)
def test_extreme_shapes_equal_torchvisions(height, width, resize, crop):
    image = Image.fromarray(noise(height, width))
    assert np.array_equal(Preprocessing(resize, crop).pixels(image), reference(image, resize, crop))


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_a_small_image_is_surrounded_by_zeros(missing):
    pixels = Preprocessing(resize=10, crop=10 + missing).pixels(np.full((10, 10, 3), 200, np.uint8))
    before = missing // 2
    assert (pixels[before : before + 10, before : before + 10] == 200).all()
    assert pixels.sum(dtype=int) == 200 * 300


def palette(transparency=None):
    image = small_photograph().quantize(40)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def with_alpha(image):
    image.putalpha(Image.fromarray(noise(image.height, image.width, channels=1)))
    return image


def sixteen_bit():
    return Image.fromarray(np.linspace(0, 700, 60 * 70).reshape(60, 70).astype(np.uint16))


FILES = {
    "grey.jpg": lambda: encoded(small_photograph().convert("L"), "JPEG"),
    "grey.png": lambda: encoded(small_photograph().convert("L"), "PNG"),
    "cmyk.jpg": lambda: encoded(small_photograph().convert("CMYK"), "JPEG"),
    "cmyk.tif": lambda: encoded(small_photograph().convert("CMYK"), "TIFF"),
    "palette.png": lambda: encoded(palette(), "PNG"),
    "palette_one_transparent.png": lambda: encoded(palette(3), "PNG"),
    "palette_alpha.png": lambda: encoded(palette(bytes(range(0, 240, 6))), "PNG"),
    "palette.gif": lambda: encoded(palette(5), "GIF"),
    "rgba.png": lambda: encoded(with_alpha(small_photograph()), "PNG"),
    "grey_alpha.png": lambda: encoded(with_alpha(small_photograph().convert("L")), "PNG"),
    "rgb_one_transparent.png": lambda: encoded(small_photograph(), "PNG", transparency=(0, 0, 0)),
    "one_bit.png": lambda: encoded(small_photograph().convert("1"), "PNG"),
    "sixteen_bit.png": lambda: encoded(sixteen_bit(), "PNG"),
    "progressive.jpg": lambda: encoded(small_photograph(), "JPEG", progressive=True, quality=60),
    "full_chroma.jpg": lambda: encoded(small_photograph(), "JPEG", subsampling=0),
    "large.jpg": lambda: encoded(small_photograph(1601, 1203), "JPEG"),  # where draft mode would decode at a half
    "really_a_png.jpg": lambda: encoded(small_photograph(), "PNG"),
    "webp.webp": lambda: encoded(small_photograph(), "WEBP"),
    "one_wide.png": lambda: encoded(Image.fromarray(noise(50, 1)), "PNG"),
    "one_high.jpg": lambda: encoded(Image.fromarray(noise(1, 50)), "JPEG"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", FILES)
def test_files_of_every_mode_equal_torchvisions(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    loaded = pil_loader(str(path))
    for resize, crop in SETTINGS:
        preprocessing, expected = Preprocessing(resize, crop), reference(loaded, resize, crop)
        assert np.array_equal(preprocessing.pixels(path), expected)
        assert np.array_equal(preprocessing.pixels(path.read_bytes()), expected)
        with Image.open(path) as opened:
            assert np.array_equal(preprocessing.pixels(opened), expected)


def test_the_files_have_the_modes_they_are_named_for():
    """Else the table above would say more than it tests."""
    modes = {name: Image.open(io.BytesIO(make())).mode for name, make in FILES.items()}
    assert [modes[name] for name in ("grey.png", "cmyk.jpg", "palette.png", "rgba.png")] == ["L", "CMYK", "P", "RGBA"]
    assert [modes[name] for name in ("grey_alpha.png", "one_bit.png", "sixteen_bit.png")] == ["LA", "1", "I;16"]
    assert isinstance(Image.open(io.BytesIO(FILES["palette_alpha.png"]())).info["transparency"], bytes)
    assert Image.open(io.BytesIO(FILES["progressive.jpg"]())).info["progressive"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_ignored_as_by_torchvision(orientation, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(small_photograph(), "JPEG", exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[ORIENTATION] == orientation
    path = tmp_path / "turned.jpg"
    path.write_bytes(data)
    expected = reference(pil_loader(str(path)), 32, 32)
    pixels = Preprocessing(32, 32).pixels(path)
    assert np.array_equal(pixels, expected)
    assert np.array_equal(pixels, Preprocessing(32, 32).pixels(encoded(small_photograph(), "JPEG")))


def test_arrays_equal_pil_images():
    for channels in (1, 3):
        array = noise(45, 71, channels)
        strided = np.asfortranarray(array[::-1])
        expected = reference(Image.fromarray(np.ascontiguousarray(strided)).convert("RGB"), 32, 32)
        assert np.array_equal(Preprocessing(32, 32).pixels(strided), expected)


def test_sources_are_left_as_they_were():
    array, image = noise(32, 32), with_alpha(small_photograph())
    array_before, image_before = array.copy(), image.copy()
    pixels = Preprocessing(32, 32).pixels(array)
    pixels[:] = 0  # writable, and no view of the source
    Preprocessing(32, 32).pixels(image)
    assert np.array_equal(array, array_before)
    assert image == image_before


def test_settings_are_hashable_and_frozen():
    assert hash(Preprocessing()) == hash(Preprocessing(256, 224))
    assert len({Preprocessing(), Preprocessing(), Preprocessing(resize=232)}) == 2
    with pytest.raises(AttributeError):
        Preprocessing().crop = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_needs_no_torch():
    code = "import ipjax.data.preprocessing, sys; print({'torch', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": 0}, "resize: expected a whole number of pixels from 1 on, got 0"),
        ({"crop": -3}, "crop: expected a whole number of pixels from 1 on, got -3"),
        ({"crop": 224.0}, "crop: expected a whole number"),
        ({"resize": "256"}, "resize: expected a whole number"),
        ({"mean": (0.5, 0.5)}, "mean: expected a tuple of three finite numbers"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean: expected a tuple"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean: expected a tuple of three finite numbers"),
        ({"mean": (0.5, 0.5, "0.5")}, "mean: expected a tuple of three finite numbers"),
        ({"std": (0.5, 0.5, float("inf"))}, "std: expected a tuple of three finite numbers"),
        ({"std": 0.5}, "std: expected a tuple of three finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std: expected positive numbers"),
        ({"std": (0.5, -0.1, 0.5)}, "std: expected positive numbers"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Preprocessing(**settings)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.float64),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8), bool),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_wrong_arrays(array):
    message = f"expected a non-empty uint8 array [h, w, 3] or [h, w], got {array.dtype} {list(array.shape)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        Preprocessing().pixels(array)


@pytest.mark.parametrize("image", [None, 3, [[1, 2]], torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_things_that_are_no_images(image):
    with pytest.raises(ValueError, match=f"expected a PIL image, a path.*got {type(image).__name__}"):
        Preprocessing().pixels(image)


def test_missing_file(tmp_path):
    path = tmp_path / "absent.jpg"
    for source in (path, str(path)):
        with pytest.raises(FileNotFoundError, match=r"absent\.jpg: expected an image file, found none; check the path"):
            Preprocessing()(source)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_files(content, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.jpg: expected an image that Pillow can decode"):
        Preprocessing()(path)
    with pytest.raises(ValueError, match=f"image file of {len(content)} bytes: expected an image that Pillow can decode"):
        Preprocessing()(content)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: expected an image that Pillow can decode")):
        Preprocessing()(tmp_path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "DDS"])
def test_damaged_files_are_value_errors_or_decoded_as_torchvision_does(format, tmp_path):
    whole, rng, refused = encoded(small_photograph(64, 64), format), np.random.default_rng(0), 0
    path = tmp_path / "damaged"
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[rng.integers(len(damaged)) :]
        else:
            damaged[rng.integers(min(len(damaged), 200))] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                expected = reference(pil_loader(str(path)), 8, 8)
            except Exception:
                refused += 1
                with pytest.raises(ValueError, match="damaged: "):
                    Preprocessing(8, 8).pixels(path)
            else:
                assert np.array_equal(Preprocessing(8, 8).pixels(path), expected)
    assert refused > 10


def test_an_error_of_a_decoder_that_is_no_os_error():
    damaged = bytearray(encoded(small_photograph(), "DDS"))
    damaged[80:84] = bytes(4)  # flags of the pixel format
    with pytest.raises(NotImplementedError):
        Image.open(io.BytesIO(damaged))
    with pytest.raises(ValueError, match="expected an image that Pillow can decode, got NotImplementedError"):
        Preprocessing().pixels(bytes(damaged))


def test_an_image_that_pillow_cannot_convert():
    with pytest.raises(ValueError, match=r"PIL image of mode La and size .* expected an image that Pillow can decode"):
        Preprocessing().pixels(Image.new("La", (4, 4)))


def test_want_of_memory_is_not_blamed_on_the_image(monkeypatch):
    def open_without_memory(_):
        raise MemoryError

    monkeypatch.setattr(Image, "open", open_without_memory)
    with pytest.raises(MemoryError):
        Preprocessing().pixels(b"")


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_an_empty_pil_image(size):
    with pytest.raises(ValueError, match=re.escape(f"expected at least one pixel, got a PIL image of size {size}")):
        Preprocessing().pixels(Image.new("RGB", size))


def test_decompression_bombs(monkeypatch):
    data = encoded(Image.new("L", (64, 64)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 32 - 1)
    with pytest.raises(ValueError, match=r"image file of \d+ bytes: .*raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        Preprocessing(8, 8).pixels(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 32)  # at the doubled limit Pillow only warns
    with pytest.warns(Image.DecompressionBombWarning):
        assert Preprocessing(8, 8).pixels(data).shape == (8, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS"):
            Preprocessing(8, 8).pixels(data)


@pytest.mark.parametrize("shape", [(1, 100, 3), (100, 1)])
def test_an_image_that_would_grow_beyond_the_limit(shape, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(ValueError, match=r"expected at most 6000 pixels after resizing .* use a smaller resize or crop"):
        Preprocessing(8, 8).pixels(np.zeros(shape, np.uint8))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_can_be_lifted_and_holds_for_the_crop(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match="expected at most 100 pixels after resizing"):
        Preprocessing(resize=1, crop=11).pixels(np.zeros((2, 2), np.uint8))
    assert Preprocessing(resize=1, crop=10).pixels(np.zeros((2, 2), np.uint8)).shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert Preprocessing(resize=1, crop=11).pixels(np.zeros((2, 2), np.uint8)).shape == (11, 11, 3)
