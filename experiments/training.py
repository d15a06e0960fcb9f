"""Training with checkpoints: networks that differ by their seed alone, and how they stood at a schedule of epochs.

Everything random of an epoch comes from its number and the seed, so a run that goes on from a checkpoint ends with the same
parameters, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from ipjax.data.digits import NUM_CLASSES, digits_in_clutter, plain_digits
from ipjax.models.mlp import MLP, mlp
from ipjax.models.resnet import ResNet, resnet

BATCH = 64
EPOCH_IMAGES = 896  # of the half's 898 digits: whole batches

Examples = tuple[np.ndarray, np.ndarray]  # images [n, ...], labels [n]


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    **Attributes:**

    - `network`: its name in the records.
    - `build`: the untrained network of a seed.
    - `draw`: `draw(epoch, seed)`, the training examples of an epoch, whole batches in the order in which they are seen.
    - `train`, `test`: the examples that accuracies are taken on; nothing of `test` is trained on.
    - `together`: whether all seeds train in one `jax.vmap`, or one after the other: on CPU mapped convolutions are slow.
    """

    network: str
    build: Callable[[int], MLP | ResNet]
    optimizer: optax.GradientTransformation
    draw: Callable[[int, int], Examples]
    train: Examples
    test: Examples
    epochs: int
    seeds: tuple[int, ...]
    together: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """How the networks of all seeds stand; every leaf has a leading axis of seeds."""

    params: Any
    statistics: Any
    optimizer: Any


def perceptrons(
    network: str,
    activation: Callable[[Array], Array],
    widths: tuple[int, ...],
    *,
    learning_rate: float,
    epochs: int,
    seeds: tuple[int, ...],
) -> Task:
    """Perceptrons on scikit-learn's digits as they are, 8x8 values from 0 (paper) to 1."""

    def flat(images: np.ndarray, labels: np.ndarray) -> Examples:
        return images.reshape(len(images), -1).astype(np.float32), labels

    train, test = flat(*plain_digits("train")), flat(*plain_digits("test"))

    def draw(epoch: int, seed: int) -> Examples:
        order = np.random.default_rng([seed, epoch]).permutation(len(train[1]))[:EPOCH_IMAGES]
        return train[0][order], train[1][order]

    def build(seed: int) -> MLP:
        num_inputs = train[0].shape[1]
        return mlp(widths, activation=activation, num_inputs=num_inputs, num_classes=NUM_CLASSES, rngs=nnx.Rngs(seed))

    return Task(network, build, optax.adam(learning_rate), draw, train, test, epochs, seeds, together=True)


def resnets(network: str, width: int, *, learning_rate: float, epochs: int, seeds: tuple[int, ...]) -> Task:
    """Narrow ResNet-18s on digits in clutter, placed anew every epoch."""

    def examples(half: Any, num_images: int, seed: int) -> Examples:
        data = digits_in_clutter(half, num_images, seed=seed)
        return data.images, data.labels

    def build(seed: int) -> ResNet:
        return resnet("resnet18", width=width, num_classes=NUM_CLASSES, rngs=nnx.Rngs(seed))

    num_steps = epochs * (EPOCH_IMAGES // BATCH)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 10, num_steps)
    return Task(
        network,
        build,
        optax.adam(schedule),
        lambda epoch, seed: examples("train", EPOCH_IMAGES, (seed + 1) * 100_000 + epoch),
        examples("train", EPOCH_IMAGES, 0),
        examples("test", EPOCH_IMAGES, 0),
        epochs,
        seeds,
        together=False,
    )


def log_spaced(epochs: int, num_checkpoints: int) -> tuple[int, ...]:
    """The epochs of the checkpoints: 0 (untrained), 1, ..., `epochs`, evenly spaced in their logarithm and rounded to whole
    epochs; so many or, where several round to one, fewer."""
    if epochs < 1 or num_checkpoints < 3:
        raise ValueError(
            f"epochs, num_checkpoints: expected at least 1 epoch and 3 checkpoints (before, after one, at the end), "
            f"got {epochs} and {num_checkpoints}"
        )
    return tuple(sorted({0, *np.rint(np.geomspace(1, epochs, num_checkpoints - 1)).astype(int).tolist()}))


@contextmanager
def checkpoints(folder: Path) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints in a folder, by epoch. One that a killed run was writing does not count, and is removed."""
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
        yield manager


def train(
    task: Task, schedule: tuple[int, ...], saved: ocp.CheckpointManager, advance: Callable[[float], None] = lambda epochs: None
) -> None:
    """Trains from the last checkpoint, or from the start, to the last epoch of the schedule; saves a checkpoint at each."""
    done = saved.latest_step()
    if done is None:
        done, state = 0, initial(task)
        saved.save(0, args=ocp.args.StandardSave(state))  # pyright: ignore[reportCallIssue]
    else:
        state = restored(task, saved, done)
    run_epoch = _epoch_of(task)
    advance(done)
    for epoch in range(done + 1, schedule[-1] + 1):
        drawn = [task.draw(epoch, seed) for seed in task.seeds]
        images, labels = (np.stack(part) for part in zip(*drawn, strict=True))
        state = run_epoch(state, *(part.reshape(len(part), -1, BATCH, *part.shape[2:]) for part in (images, labels)))
        if epoch in schedule:
            saved.save(epoch, args=ocp.args.StandardSave(state))  # pyright: ignore[reportCallIssue]
        advance(1)


def restored(task: Task, saved: ocp.CheckpointManager, epoch: int) -> State:
    """How the networks stood after an epoch."""
    like = jax.eval_shape(partial(initial, task))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), like)
    return saved.restore(epoch, args=ocp.args.StandardRestore(like))  # pyright: ignore


def initial(task: Task) -> State:
    """The untrained networks."""
    split = [nnx.split(_training(task, seed), nnx.Param, nnx.BatchStat) for seed in task.seeds]
    params = _stacked([params for _, params, _ in split])
    return State(params, _stacked([statistics for _, _, statistics in split]), jax.vmap(task.optimizer.init)(params))


def _training(task: Task, seed: int) -> MLP | ResNet:
    model = task.build(seed)
    model.train()
    return model


def _epoch_of(task: Task) -> Callable[[State, np.ndarray, np.ndarray], State]:
    """`f(state, images [seeds, batches, batch, ...], labels)`: the state after these batches."""
    graph = nnx.split(_training(task, task.seeds[0]), nnx.Param, nnx.BatchStat)[0]

    def step(state: State, batch: tuple[Float[Array, "batch ..."], Int[Array, " batch"]]) -> tuple[State, None]:
        def loss(params: Any) -> tuple[Float[Array, ""], Any]:
            model = nnx.merge(graph, params, state.statistics, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1])
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        gradient, statistics = jax.grad(loss, has_aux=True)(state.params)
        updates, optimizer = task.optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), statistics, optimizer), None

    if task.together:
        return jax.jit(jax.vmap(lambda state, images, labels: jax.lax.scan(step, state, (images, labels))[0]))
    one_step = jax.jit(lambda state, images, labels: step(state, (images, labels))[0])

    def one_by_one(states: State, images: np.ndarray, labels: np.ndarray) -> State:
        after = []
        for i in range(len(task.seeds)):
            state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
            for batch in zip(images[i], labels[i], strict=True):
                state = one_step(state, *batch)
            after.append(state)
        return _stacked(after)

    return one_by_one


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
