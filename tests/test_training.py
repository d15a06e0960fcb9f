"""Training: the schedule of checkpoints, seeds together, and going on from a checkpoint."""

from dataclasses import replace
from itertools import pairwise

import chex
import jax
import numpy as np
import pytest

from experiments.training import EPOCH_IMAGES, checkpoints, log_spaced, perceptrons, resnets, restored, train
from ipjax.data.digits import plain_digits

SCHEDULE = (0, 1, 3, 5)
SMALL = perceptrons("tanh", jax.numpy.tanh, (6, 4), learning_rate=5e-3, epochs=5, seeds=(0, 1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, trained(SMALL, folder)


def trained(task, folder, schedule=SCHEDULE, **other):
    with checkpoints(folder) as saved:
        train(task, schedule, saved, **other)
        assert saved.all_steps() == list(schedule)
        return restored(task, saved, schedule[-1])


@pytest.mark.parametrize(
    ("epochs", "num", "expected"),
    [(1, 3, (0, 1)), (100, 4, (0, 1, 10, 100)), (100, 6, (0, 1, 3, 10, 32, 100)), (4, 50, (0, 1, 2, 3, 4))],
)
def test_schedule_is_even_in_the_logarithm(epochs, num, expected):
    assert log_spaced(epochs, num) == expected


@pytest.mark.parametrize(("epochs", "num"), [(0, 5), (10, 2)])
def test_schedules_without_a_course_are_refused(epochs, num):
    with pytest.raises(ValueError, match=rf"at least 1 epoch and 3 checkpoints.*got {epochs} and {num}"):
        log_spaced(epochs, num)


@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_stopped_training_goes_on_to_the_same_parameters(whole, tmp_path, last):
    epochs = []

    def stop(amount):
        epochs.append(amount)
        if sum(epochs) == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(SMALL, tmp_path, advance=stop)
    again = []
    state = trained(SMALL, tmp_path, advance=again.append)
    assert again[0] == max(epoch for epoch in SCHEDULE if epoch <= last)
    assert sum(again) == 5
    chex.assert_trees_all_equal(state, whole[1])


def test_a_checkpoint_half_written_does_not_count(whole, tmp_path):
    trained(SMALL, tmp_path, (0, 1))
    half = tmp_path / "3.orbax-checkpoint-tmp-1"
    half.mkdir()
    (half / "part").write_bytes(b"x")
    chex.assert_trees_all_equal(trained(SMALL, tmp_path), whole[1])
    assert not half.exists()


def test_seeds_that_train_together_are_those_that_train_alone(whole, tmp_path):
    alone = trained(replace(SMALL, seeds=(1,)), tmp_path)
    together = jax.tree.map(lambda leaf: leaf[1:], whole[1])
    chex.assert_trees_all_close(alone.params, together.params, rtol=1e-4, atol=1e-5)
    kernel = whole[1].params["fc"]["kernel"][...]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_checkpoints_hold_the_course(whole):
    with checkpoints(whole[0]) as saved:
        kernels = [restored(SMALL, saved, epoch).params["fc"]["kernel"][...] for epoch in SCHEDULE]
    assert all(np.abs(a - b).max() > 0.01 for a, b in pairwise(kernels))


@pytest.mark.parametrize("task", [SMALL, resnets("resnet", 2, learning_rate=1e-3, epochs=2, seeds=(0,))], ids=["mlp", "resnet"])
def test_epochs_and_seeds_draw_anew_and_by_themselves_alone(task):
    (images, labels), other_epoch, other_seed, again = task.draw(1, 0), task.draw(2, 0), task.draw(1, 1), task.draw(1, 0)
    assert len(images) == len(labels) == EPOCH_IMAGES
    chex.assert_trees_all_equal((images, labels), again)
    assert not np.array_equal(images, other_epoch[0])
    assert not np.array_equal(images, other_seed[0])


def test_perceptrons_train_on_one_half_only():
    seen = {image.tobytes() for image in SMALL.draw(1, 0)[0]}
    train_half, test_half = (
        {image.astype(np.float32).tobytes() for image in plain_digits(half)[0].reshape(-1, 64)} for half in ("train", "test")
    )
    assert seen <= train_half
    assert len(seen & test_half) <= len(train_half & test_half)


@pytest.mark.slow
def test_a_stopped_resnet_goes_on_to_the_same_parameters_and_statistics(tmp_path):
    task = resnets("resnet", 2, learning_rate=1e-3, epochs=2, seeds=(0, 1))
    one = trained(task, tmp_path / "whole", (0, 1, 2))
    trained(task, tmp_path / "parts", (0, 1))
    chex.assert_trees_all_equal(trained(task, tmp_path / "parts", (0, 1, 2)), one)
    with checkpoints(tmp_path / "whole") as saved:
        before = restored(task, saved, 1)
    differs = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.statistics, one.statistics)
    assert all(jax.tree.leaves(differs))
