"""The pipeline: which images, in which order, and what becomes of those that cannot be read."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ipjax.data.pipeline import batches, stratified


@dataclass(frozen=True)
class Numbers:
    """Image i is full of i; some take longer, so that an order lost in threads shows."""

    num_images: int = 40
    unreadable: frozenset[int] = frozenset()
    faulty: frozenset[int] = frozenset()
    num_classes: int = 10
    shape: tuple[int, int, int] = (2, 3, 3)

    @property
    def labels(self):
        return np.arange(self.num_images) % self.num_classes

    def __len__(self):
        return self.num_images

    def __getitem__(self, i):
        time.sleep(0.002 * (i % 3 == 0))
        if i in self.faulty:
            raise KeyError("a bug")
        if i in self.unreadable:
            raise (ValueError if i % 2 else OSError)(f"{self.name(i)}: damaged")
        return np.full(self.shape, i, np.float32)

    def name(self, i):
        return f"image {i}"


def check(got, index, batch_size):
    padded = np.append(index, np.full(-len(index) % batch_size, -1)).astype(int)
    assert len(got) == len(padded) // batch_size
    assert np.array_equal(np.concatenate([batch.index for batch in got]), padded)
    for batch in got:
        assert batch.images.shape == (batch_size, 2, 3, 3)
        assert batch.images.dtype == np.float32
        expected = np.where(batch.mask, batch.index, 0)
        assert np.array_equal(batch.images, np.broadcast_to(expected[:, None, None, None], batch.images.shape))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_order_and_remainder_with_threads(length):
    index = np.random.default_rng(length).permutation(40)[:length]
    got = list(batches(Numbers(), index, 8))
    check(got, index, 8)
    assert sum(batch.mask.sum() for batch in got) == length


@pytest.mark.parametrize(("length", "num_workers"), [(1, 2), (23, 2), (31, 3)])
def test_worker_processes_give_the_same_batches(length, num_workers):
    index = np.random.default_rng(length).permutation(40)[:length]
    images = Numbers(unreadable=frozenset({int(index[0]), 11, 18}))
    threads, workers = (list(batches(images, index, 8, num_workers=n)) for n in (0, num_workers))
    check(workers, index, 8)
    for one, other in zip(threads, workers, strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.mask, other.mask)
        assert one.unreadable == other.unreadable
    assert index[0] in workers[0].unreadable


def test_places_to_be_filled_and_unreadable_images_are_masked():
    (batch,) = batches(Numbers(unreadable=frozenset({4, 5})), [3, -1, 4, 5, 39], 6)
    assert batch.index.tolist() == [3, -1, 4, 5, 39, -1]
    assert batch.mask.tolist() == [True, False, False, False, True, False]
    assert batch.unreadable == {4: "image 4: damaged", 5: "image 5: damaged"}
    check([batch], [3, -1, 4, 5, 39], 6)


def test_nothing_to_read():
    assert list(batches(Numbers(), [], 8)) == []
    (batch,) = batches(Numbers(), [-1, -1], 2)
    assert not batch.mask.any()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_other_errors_are_raised(num_workers):
    with pytest.raises(KeyError, match="a bug"):
        list(batches(Numbers(faulty=frozenset({20})), range(40), 8, num_workers=num_workers))


def test_little_is_read_ahead():
    read = []

    class Counting(Numbers):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    with closing(batches(Counting(num_images=2000), range(2000), 8)) as reading:
        for number in range(1, 20):
            next(reading)
            time.sleep(0.02)
            assert 8 * number <= len(read) <= 8 * number + 3 * 8


def test_hosts_read_their_own_lists():
    index = np.random.default_rng(0).permutation(40)[:37]
    shards = np.append(index, [-1] * 3).reshape(-1, 4).T
    hosts = [list(batches(Numbers(), shard, 4)) for shard in shards]
    assert {len(host) for host in hosts} == {3}
    seen = np.concatenate([batch.index[batch.mask] for host in hosts for batch in host])
    assert sorted(seen) == sorted(index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"num_workers": -1}, "num_workers: expected 0 for threads, or a number of processes, got -1"),
        ({"index": [0, 40]}, "index: expected numbers from 0 to 39, or -1 for no image, got 40"),
        ({"index": [-2]}, "index: expected numbers from 0 to 39, or -1 for no image, got -2"),
    ],
)
def test_wrong_arguments_of_batches(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        batches(**{"images": Numbers(), "index": [0], "batch_size": 2} | arguments)


def test_threads_end_where_the_consumer_stops():
    def reading_threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]

    before = len(reading_threads())
    for batch in batches(Numbers(), range(40), 4):
        assert batch.mask.all()
        assert len(reading_threads()) > before
        break
    until = time.monotonic() + 5
    while len(reading_threads()) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(reading_threads()) <= before


MAIN = """
import json, multiprocessing
from ipjax.data.pipeline import batches
from test_pipeline import Numbers
print("run as", __name__)
if __name__ == "__main__":
    for stop in (False, True):
        for batch in batches(Numbers(), range(38), 4, num_workers=2):
            if stop:
                break
        print(json.dumps([batch.index.tolist(), len(multiprocessing.active_children())]))
"""


@pytest.mark.slow
def test_workers_of_a_module_run_by_name(tmp_path):
    """Nothing but the import is run again, no flags need be parsed, nothing is left where the consumer stops early."""
    (tmp_path / "reads.py").write_text(MAIN)
    here = Path(__file__).parent
    environment = {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, here, here.parent))), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "reads", "--unknown-flag"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert lines.count("run as __main__") == 1
    results = [json.loads(line) for line in lines if not line.startswith("run as")]
    assert results == [[[36, 37, -1, -1], 0], [[0, 1, 2, 3], 0]]
    assert "leaked" not in done.stderr


# Which images


def test_a_balanced_choice_is_balanced_and_in_random_order():
    labels = np.repeat(np.arange(10), 50)
    chosen = stratified(labels, 105, seed=0)
    counts = np.bincount(labels[chosen])
    assert len(set(chosen)) == 105
    assert sorted(counts) == [10] * 5 + [11] * 5
    assert not np.array_equal(np.sort(labels[chosen]), labels[chosen])
    assert np.bincount(labels[chosen[:50]], minlength=10).max() < 15
    assert not np.array_equal(np.flatnonzero(counts == 11), np.arange(5))  # ties go by lot, not to the first classes


def test_minima_first_then_in_proportion():
    labels = np.repeat([0, 1, 2], [2, 100, 300])
    assert np.bincount(labels[stratified(labels, 42, min_per_class=3, seed=1)]).tolist() == [2, 11, 29]
    assert np.bincount(labels[stratified(labels, 8, min_per_class=3, seed=1)]).tolist() == [2, 3, 3]
    assert np.bincount(labels[stratified(labels, 40, min_per_class=0, seed=1)]).tolist() == [0, 10, 30]


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_within_one_of_their_shares(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(20), rng.integers(1, 60, 20)))
    sizes = np.bincount(labels)
    for number in (20, 100, len(labels) - 1, len(labels)):
        chosen = stratified(labels, number, seed=seed)
        counts = np.bincount(labels[chosen], minlength=20)
        assert len(set(chosen)) == number
        assert (counts <= sizes).all()
        share = 1 + (number - 20) * (sizes - 1) / (sizes - 1).sum()
        assert np.abs(counts - share).max() < 1


def test_the_seed_decides():
    labels = np.repeat(np.arange(4), 25)
    same, again, other = (stratified(labels, 30, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(same, again)
    assert set(same) != set(other)
    # the choice is part of what a run on another machine has to repeat
    assert stratified(np.array([0, 1, 0, 1, 1, 0]), 4, seed=0).tolist() == [5, 3, 4, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images: expected at least 1, got 0"),
        ({"num_images": 101}, "num_images: expected at most 100, which is all there are, got 101"),
        ({"min_per_class": -1}, "min_per_class: expected at least 0, got -1"),
        ({"num_images": 19, "min_per_class": 5}, "num_images: expected at least 20, for 5 of each of the 4 classes; got 19"),
    ],
)
def test_wrong_arguments_of_stratified(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        stratified(np.repeat(np.arange(4), 25), **{"num_images": 30, "seed": 0} | arguments)


@pytest.mark.parametrize("index", [[True, False], [0.7, 1.9]])
def test_an_index_of_other_than_integers_is_refused(index):
    with pytest.raises(ValueError, match="index: expected integers"):
        batches(Numbers(4), index, 2)
