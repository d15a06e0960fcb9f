"""Digits in clutter: a small real task whose nuisance is known.

scikit-learn's 8x8 handwritten digits (Alpaydin and Kaynak 1998), split into two halves by a fixed seed. Each example is
one digit, scaled and placed at random on a 32x32 canvas over fragments of other digits of the same half, with noise.
So beside the label each image comes with the position, size and contrast of its digit: information that the input carries
and that a good classifier has to drop. The same seed gives the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

CANVAS = 32
NUM_CLASSES = 10
NUM_TEST = 899  # digits in the half for tests
MEAN, STD = 0.1, 0.2  # of the cluttered canvas, about: images are normalised by them, so a zero image is an average one
NUM_FRAGMENTS = 4
NUISANCES = {"position": 9, "size": 3, "contrast": 3}

Half = Literal["train", "test"]


@dataclass(frozen=True)
class Digits:
    """`images` [n, 32, 32, 3], normalised; `labels` [n]; `nuisances`: name -> class index [n], as in `NUISANCES`:
    the cell of a 3x3 grid over where the digit may lie, and thirds of the range of its size and of its contrast."""

    images: Float[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, " n"]
    nuisances: dict[str, Int[np.ndarray, " n"]]
    shape = (CANVAS, CANVAS, 3)
    num_classes = NUM_CLASSES

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Float32[np.ndarray, "h w 3"]:
        return self.images[i]

    def name(self, i: int) -> str:
        """What a person calls image `i`."""
        return f"digit {i}"


def digits_in_clutter(half: Half, num_images: int, *, seed: int = 0, clutter: float = 1.0) -> Digits:
    """Draws `num_images` examples from one half of the digits, every digit of the half equally often.

    **Arguments:**

    - `half`: `"train"` (what the embedded checkpoints saw) or `"test"`.
    - `clutter`: from 0 (plain centred digits of one size and contrast) to 1.
    """
    if num_images < 1:
        raise ValueError(f"num_images: expected at least 1, got {num_images}")
    if seed < 0:
        raise ValueError(f"seed: expected an integer from 0 on, got {seed}")
    if not 0 <= clutter <= 1:
        raise ValueError(f"clutter: expected a number from 0 to 1, got {clutter}")
    digits, labels = plain_digits(half)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0 if half == "train" else 1]))
    rounds = -(-num_images // len(digits))
    chosen = np.concatenate([rng.permutation(len(digits)) for _ in range(rounds)])[:num_images]

    where = rng.uniform(size=(4, num_images))  # row, column, size, contrast of the digit, each uniform on [0, 1]
    row, column, size, contrast = 0.5 + clutter * (where - 0.5)
    extent, strength = 14 + 6 * size, 0.5 + 0.5 * contrast
    canvas = strength[:, None, None] * _place(digits[chosen], row, column, extent)
    for _ in range(NUM_FRAGMENTS):
        fragments = _crop(digits[rng.integers(len(digits), size=num_images)], rng)
        weaker = clutter * strength * rng.uniform(0.2, 0.7, size=num_images)
        row, column = rng.uniform(-0.2, 1.2, size=(2, num_images))
        canvas = np.maximum(canvas, weaker[:, None, None] * _place(fragments, row, column, extent))
    canvas += clutter * 0.08 * rng.standard_normal(canvas.shape)

    thirds = np.floor(3 * where).astype(np.int32)
    nuisances = {"position": 3 * thirds[0] + thirds[1], "size": thirds[2], "contrast": thirds[3]}
    images = np.repeat(((canvas - MEAN) / STD)[..., None], 3, axis=-1).astype(np.float32)
    return Digits(images, labels[chosen], nuisances if clutter > 0 else {})


def plain_digits(half: Half) -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """All digits of one half as they are, from 0 (paper) to 1 (ink), and their labels."""
    if half not in ("train", "test"):
        raise ValueError(f'half: expected "train" or "test", got {half!r}')
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    index = train_test_split(np.arange(len(labels)), test_size=0.5, random_state=0, stratify=labels)
    chosen = index[0] if half == "train" else index[1]
    return pixels[chosen].reshape(-1, 8, 8) / 16, labels[chosen].astype(np.int32)


def _crop(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All but a random 4x4 window set to zero."""
    corner = rng.integers(5, size=(2, len(digits), 1))
    rows, columns = (np.arange(8) >= corner) & (np.arange(8) < corner + 4)
    return digits * rows[:, :, None] * columns[:, None, :]


def _place(digits: np.ndarray, row: np.ndarray, column: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Scales 8x8 images to `extent` pixels and places them on the canvas; `row` and `column` run from 0 to 1."""
    rows, columns = (_bilinear(extent / 2 + place * (CANVAS - extent), extent) for place in (row, column))
    return rows @ digits @ columns.transpose(0, 2, 1)


def _bilinear(centre: np.ndarray, extent: np.ndarray) -> Float[np.ndarray, "n canvas 8"]:
    """Weights with which each canvas row interpolates the 8 rows of an image `extent` pixels long."""
    pixel = np.arange(CANVAS) + 0.5
    source = (pixel - (centre - extent / 2)[:, None]) / extent[:, None] * 8 - 0.5
    return np.maximum(0, 1 - np.abs(source[:, :, None] - np.arange(8)))
