"""Photographs as torchvision's classifiers were evaluated on them: resized, cropped, normalised.

The pixels are those of torchvision's `ImageClassification` preset on a PIL image, byte for byte: `Resize` (bilinear with
antialias) and `CenterCrop` as in torchvision/transforms/functional.py, after the decoding of its `ImageFolder`. Pillow
alone does the work, so no torch is needed to reproduce the accuracies that its pretrained weights were published with.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

ImageSource = Image.Image | str | os.PathLike[str] | bytes | np.ndarray


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the evaluation transforms; the defaults are those of torchvision's `IMAGENET1K_V1` weights.

    **Arguments:**

    - `resize`: pixels of the short side after resizing; the long side becomes `int(resize * long / short)`.
    - `crop`: side of the central square that is kept. Where the resized image is smaller, zeros (black) surround it.
    - `mean`, `std`: of the three channels, for pixels from 0 to 1.

    An image is a PIL image, a path, the bytes of an image file, or a uint8 array [h, w, 3] (RGB) or [h, w] (grey).
    Whatever its mode, it goes through Pillow's `convert("RGB")`: alpha is dropped, and grey of more than 8 bits is clipped
    at 255, not scaled, so that a 16-bit image comes out almost white; convert such images beforehand.
    The orientation in a photograph's EXIF data is ignored, and JPEGs are decoded at full size (no draft mode): the
    published accuracies were taken so.

    **Errors:** `FileNotFoundError` where there is no such file; `ValueError` for a damaged or unsupported image, an array
    of another type or shape, and one with more pixels, as it comes or resized, than Pillow's limit on decompression bombs
    (twice `PIL.Image.MAX_IMAGE_PIXELS`).
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of pixels from 1 on, got {value!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            # a list would make the settings unhashable
            if not isinstance(value, tuple) or len(value) != 3 or not all(map(_is_moderate, value)):
                raise ValueError(f"{name}: expected a tuple of three finite numbers, below 1e6, one a channel, got {value!r}")
        if min(self.std) < 1e-6:
            raise ValueError(f"std: expected positive numbers, at least 1e-6, as images are divided by them, got {self.std!r}")

    def pixels(self, image: ImageSource) -> UInt8[np.ndarray, "crop crop 3"]:
        """The image in RGB, resized and cropped, before normalisation."""
        rgb = _rgb(image)
        width, height = _resized(rgb.size, self.resize)
        _check_area(max(width, self.crop), max(height, self.crop), self.resize, rgb.size)
        left, top = _offset(width, self.crop), _offset(height, self.crop)
        resized = rgb.resize((width, height), Image.Resampling.BILINEAR)  # Pillow always antialiases
        return np.array(resized.crop((left, top, left + self.crop, top + self.crop)))

    def __call__(self, image: ImageSource) -> Float32[np.ndarray, "crop crop 3"]:
        """The normalised image `(pixels / 255 - mean) / std`, channels last."""
        unit = self.pixels(image).astype(np.float32) / 255
        return (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


def _is_moderate(number: object) -> bool:
    return isinstance(number, int | float) and abs(number) < 1e6  # which NaN is not


def _resized(size: tuple[int, int], resize: int) -> tuple[int, int]:
    """Width and height with the short side brought to `resize`."""
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def _offset(length: int, crop: int) -> int:
    """Where the central crop begins; negative where the image is shorter, and Pillow fills with zeros.
    torchvision rounds an excess half to even, and pads the lesser half of what is missing in front."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _check_area(width: int, height: int, resize: int, size: tuple[int, int]) -> None:
    """An image a pixel wide grows by `resize` on its long side too: Pillow's limit holds for the result as well."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise ValueError(
            f"image: expected at most {2 * limit} pixels after resizing (twice PIL.Image.MAX_IMAGE_PIXELS), got {width} x "
            f"{height} from {size[0]} x {size[1]} with resize={resize}; use a smaller resize or crop, or cut the image first"
        )


def _rgb(image: ImageSource) -> Image.Image:
    if isinstance(image, np.ndarray):
        return _array_rgb(image)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"image: expected at least one pixel, got a PIL image of size {image.size}")
        with _decoding(f"PIL image of mode {image.mode} and size {image.size}"):
            return image.convert("RGB")
    if isinstance(image, bytes):
        with _decoding(f"image file of {len(image)} bytes"), Image.open(io.BytesIO(image)) as opened:
            return opened.convert("RGB")
    if isinstance(image, str | os.PathLike):
        with _decoding(os.fspath(image)), Image.open(image) as opened:
            return opened.convert("RGB")
    raise ValueError(
        f"image: expected a PIL image, a path, the bytes of an image file or a uint8 NumPy array, got {type(image).__name__}"
    )


def _array_rgb(image: np.ndarray) -> Image.Image:
    channels_fit = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not channels_fit or image.size == 0:
        raise ValueError(
            f"image: expected a non-empty uint8 array [h, w, 3] or [h, w], got {image.dtype} {list(image.shape)}; "
            "scale other types to 0...255 and put channels last"
        )
    return Image.fromarray(image).convert("RGB")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turns what reading an image may raise into errors that name it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: expected an image file, found none; check the path") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: {error} If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make Pillow's decoders raise nearly anything
        raise ValueError(
            f"{name}: expected an image that Pillow can decode, got {type(error).__name__}: {error}; replace or remove it"
        ) from error
