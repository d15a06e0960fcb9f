"""Images in batches: which ones, in which order, decoded ahead of the computation.

Any data set read by index (`Images`) goes through one Grain pipeline. Batches come in exactly the order of the index list,
whether threads or worker processes decode, and carry what is needed to put results back where they belong: the index of
every image and a mask of those that are real. Each host is given its own index list, so hosts need no other agreement.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import numpy as np
from jaxtyping import Bool, Float32, Int

READ_THREADS = 16  # more than cores: those that wait for a disk cost none


class Images(Protocol):
    """A data set read by index, small to pickle. It reads whole images of one `shape` (height, width, 3).

    `labels` are from 0 to `num_classes - 1`; with 1,000 classes they are indices of ImageNet's classes.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and 3."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The class of every image."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes that labels may name."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Float32[np.ndarray, "h w 3"]:
        """The preprocessed image. Raises `ValueError` or `OSError`, which name it, where it cannot be read."""
        ...

    def name(self, i: int) -> str:
        """What a person calls image `i`."""
        ...


@dataclass(frozen=True)
class Batch:
    """`images` [b, h, w, 3], zeros where there is none; `index` [b] into the data set, -1 where the batch is filled up;
    `mask` [b], true for a readable image; `unreadable`: index -> why it could not be read."""

    images: Float32[np.ndarray, "b h w 3"]
    index: Int[np.ndarray, " b"]
    mask: Bool[np.ndarray, " b"]
    unreadable: dict[int, str]


def stratified(labels: Int[np.ndarray, " n"], num_images: int, *, min_per_class: int = 1, seed: int) -> Int[np.ndarray, " m"]:
    """Indices of `num_images` images in random order, every class with about its share of the data.

    Each class that occurs first gets `min_per_class` images, or all of its images where it has fewer. The others are shared
    out in proportion to the images that the classes have left, the last ones by largest remainder. The same on every machine.
    """
    labels = np.asarray(labels)
    if num_images < 1:
        raise ValueError(f"num_images: expected at least 1, got {num_images}")
    if min_per_class < 0:
        raise ValueError(f"min_per_class: expected at least 0, got {min_per_class}")
    if num_images > len(labels):
        raise ValueError(f"num_images: expected at most {len(labels)}, which is all there are, got {num_images}")
    classes, sizes = np.unique(labels, return_counts=True)
    least = np.minimum(min_per_class, sizes)
    if num_images < least.sum():
        raise ValueError(
            f"num_images: expected at least {least.sum()}, for {min_per_class} of each of the {len(classes)} classes; got "
            f"{num_images}. Take more images or a smaller min_per_class"
        )
    rng = np.random.default_rng(seed)
    counts = least + _shares(sizes - least, num_images - int(least.sum()), rng)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in zip(classes, counts, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def _shares(sizes: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers in proportion to `sizes` that sum up to `total`, by largest remainder, ties by lot. None is above its
    size; and integers alone decide, so that no machine rounds differently."""
    shares, remainders = np.divmod(sizes * total, max(sizes.sum(), 1))
    lot = rng.permutation(len(sizes))
    largest = lot[np.argsort(-remainders[lot], kind="stable")]
    shares[largest[: total - shares.sum()]] += 1
    return shares


def batches(
    images: Images, index: Sequence[int] | Int[np.ndarray, " n"], batch_size: int, *, num_workers: int = 0
) -> Generator[Batch, None, None]:
    """The images at `index`, in that order, in batches of one size, about two batches of them read ahead.

    **Arguments:**

    - `index`: indices into the data set; -1 is no image but a place to be filled, as are those that fill up the last batch.
    - `num_workers`: processes that decode; with 0, threads of this process do. Batches are the same.

    An image that cannot be read is masked and its reason given; any other error is raised here. Whoever stops before the
    end should close the iterator (`contextlib.closing`), or drop it, to end its threads or processes.
    """
    index = np.asarray(index).reshape(-1)
    if index.size and not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"index: expected integers, got {index.dtype}")
    index = index.astype(np.int64)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if num_workers < 0:
        raise ValueError(f"num_workers: expected 0 for threads, or a number of processes, got {num_workers}")
    if (outside := index[(index < -1) | (index >= len(images))]).size:
        raise ValueError(f"index: expected numbers from 0 to {len(images) - 1}, or -1 for no image, got {outside[0]}")
    return _batches(images, index, batch_size, num_workers)


_Read = tuple[np.ndarray | None, str | None]  # the image; why there is none


def _batches(images: Images, index: np.ndarray, batch_size: int, num_workers: int) -> Generator[Batch, None, None]:
    fill = -len(index) % batch_size
    index = np.concatenate([index, np.full(fill, -1)])
    if len(index) == 0:
        return
    elements = iter(_pipeline(images, index, batch_size, num_workers))
    try:
        for here in np.split(index, len(index) // batch_size):
            batch = Batch(np.zeros((batch_size, *images.shape), np.float32), here.copy(), np.zeros(batch_size, bool), {})
            for row, (i, (image, reason)) in enumerate(zip(here.tolist(), _take(elements, batch_size), strict=True)):
                if image is not None:
                    if image.shape != images.shape:
                        raise RuntimeError(f"image {i}: expected the data set's shape {images.shape}, got {image.shape}")
                    batch.images[row], batch.mask[row] = image, True
                elif reason is not None:
                    batch.unreadable[i] = reason
            yield batch
    finally:
        elements.close()


def _take(elements: Iterator[_Read], number: int) -> Iterator[_Read]:
    for _ in range(number):
        try:
            yield next(elements)
        except StopIteration:
            raise RuntimeError("the pipeline ended before its index list: an image raised StopIteration") from None


def _pipeline(images: Images, index: np.ndarray, batch_size: int, num_workers: int):
    import grain
    from absl import flags

    elements = grain.MapDataset.source(cast(Sequence[int], index)).map(partial(_read, images))
    if num_workers == 0:
        return elements.to_iter_dataset(grain.ReadOptions(min(READ_THREADS, 2 * batch_size), 2 * batch_size))
    # Grain asks for this flag when it starts workers, which is an error in programs that do not parse flags with absl.
    flags.FLAGS["grain_enable_multiprocess_worker_profiling"].present = True
    # Images lie in three buffers of each worker: read, queued for this process, received. Batches are put together here,
    # and workers take turns image by image, so that neither order nor batches depend on their number.
    share = -(-batch_size // (2 * num_workers))
    elements = elements.to_iter_dataset(grain.ReadOptions(min(2, share), share))
    # Through pipes: blocks of shared memory are small in containers, and left behind where the consumer stops early.
    elements = grain.experimental.WithOptionsIterDataset(elements, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize))
    return elements.mp_prefetch(grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=share))


def _read(images: Images, i: int) -> _Read:
    if i < 0:
        return None, None
    try:
        return images[int(i)], None
    except (ValueError, OSError) as error:
        return None, str(error)
