"""Information planes at every checkpoint of a training, of all seeds together.

Edges of bins are fixed over training, as in Saxe et al. 2018: 30 equal cells from -1 to 1 for tanh; for any other activation,
and for conductance, which has no bounds, from the smallest (a ReLU's is 0) to the largest value that the layer takes at any
checkpoint. So features of all checkpoints come first, then their measurement. Parameters, features, edges and noise are
arguments of compiled code: it is compiled once a layer width, whatever the number of epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax import Array
from jaxtyping import Float

import ipjax
from experiments.training import State, Task, restored
from ipjax.assessment import describe
from ipjax.estimators import KDE, Binned
from ipjax.estimators.base import Estimate, Estimator, Labels
from ipjax.estimators.binned import fixed_cells
from ipjax.estimators.kde import noise_variance
from ipjax.files import Record
from ipjax.models import mlp, resnet
from ipjax.readout import CountSketch

NUM_BINS = 30
ABSOLUTE_NOISE = 0.1  # variance, in squared units of the features: that of Saxe et al. 2018
SKETCH = 128  # features of a layer that has more units
NUM_NULL = 5
REPRESENTATIONS = ("activation", "contrast", "predicted")

ByLayer = dict[str, Array]


@dataclass(frozen=True)
class Features:
    """What stands for the layers of all seeds after an epoch.

    **Attributes:**

    - `values`: representation -> layer -> `[seeds, n, d]`, in forward order.
    - `train_accuracy`, `test_accuracy`: `[seeds]`.
    """

    epoch: int
    values: dict[str, dict[str, np.ndarray]]
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray


def features_of(
    task: Task,
    saved: ocp.CheckpointManager,
    epochs: Sequence[int],
    *,
    num_images: int,
    num_steps: int,
    seed: int,
    advance: Callable[[float], None] = lambda checkpoints: None,
) -> list[Features]:
    """Activation and conductance (to the contrast of `seed` and to the predicted class) of the first test images at epochs."""
    model = task.build(task.seeds[0])
    network = mlp.as_network if isinstance(model, mlp.MLP) else resnet.as_network
    net = network(model)  # pyright: ignore[reportArgumentType]
    images, found = task.test[0][:num_images], []
    names = net.layers(images, net.default_layers)
    quadrature = ipjax.quadrature.trapezoid(num_steps)

    def of_params(params: Any, x: np.ndarray) -> dict[str, ByLayer]:
        mine, readout = replace(net, params=params), CountSketch(SKETCH, seed)
        logits, activations = mine.activations(x, names)
        num_classes = logits.shape[1]
        contrast = jnp.broadcast_to(ipjax.contrast_weights(num_classes, seed), logits.shape)
        targets = jnp.stack([contrast, jax.nn.one_hot(logits.argmax(-1), num_classes)])
        conductance = partial(ipjax.layer_conductance, mine, x, layers=names, quadrature=quadrature, readout=readout)
        toward = jax.vmap(lambda target: conductance(target=target))(targets)  # mapped, they share the passes forward
        return {
            "activation": {name: readout(value) for name, value in activations.items()},
            "contrast": {name: value[0] for name, value in toward.items()},
            "predicted": {name: value[1] for name, value in toward.items()},
        }

    def accuracy(params: Any, x: np.ndarray, y: np.ndarray) -> Array:
        return jnp.mean(replace(net, params=params)(x).argmax(-1) == y)

    spread = _each_seed(task)
    of_params, accuracy = spread(of_params), spread(accuracy)
    for epoch in epochs:
        state = restored(task, saved, epoch)
        params = _network_params(net.params, state)
        values = jax.device_get(of_params(params, images))
        by_layer = {kind: {name: values[kind][name] for name in names} for kind in REPRESENTATIONS}  # jit sorts
        _check_finite(task.network, epoch, by_layer)
        accuracies = (np.asarray(accuracy(params, *examples)) for examples in (task.train, task.test))
        found.append(Features(epoch, by_layer, *accuracies))
        advance(1)
    return found


def measure(
    task: Task,
    features: Sequence[Features],
    *,
    noise: float,
    bounds: tuple[float, float] | None,
    advance: Callable[[float], None] = lambda checkpoints: None,
) -> list[Record]:
    """Records of the planes of all checkpoints: both axes by fixed bins and by KDE, with noise relative to the layer's median
    squared distance and with an absolute one.

    **Arguments:**

    - `bounds`: edges of the activations' bins, `None` for the layer's smallest and largest value over all checkpoints.

    **Returns:** records as those of `ipjax.measure_plane` without interval, with `network`, `seed` (the network's), `epoch`,
    `train_accuracy`, `test_accuracy`, and `estimator`: `"binned"`, `"kde"` or `"kde_absolute"`.
    """
    first = features[0].values["activation"]
    n = next(iter(first.values())).shape[1]
    labels = Labels(jnp.asarray(task.test[1][:n], jnp.int32), int(task.test[1].max()) + 1)
    edges = {
        (kind, layer): _edges([at.values[kind][layer] for at in features], bounds if kind == "activation" else None)
        for kind in REPRESENTATIONS
        for layer in first
    }
    names = {
        "binned": f"Binned(num_bins={NUM_BINS}, edges='fixed')",
        "kde": repr(KDE(noise)),
        "kde_absolute": f"KDE(noise variance {ABSOLUTE_NOISE})",
    }
    records = []
    for at in features:
        for kind, layers in at.values.items():
            for depth, (layer, x) in enumerate(layers.items()):
                measured = jax.device_get(_measured(jnp.asarray(x), labels, *edges[kind, layer], noise))
                for i, seed in enumerate(task.seeds):
                    num_varying = int((np.ptp(x[i], axis=0) > 0).sum())
                    common: Record = {
                        "network": task.network,
                        "seed": seed,
                        "epoch": at.epoch,
                        "train_accuracy": float(at.train_accuracy[i]),
                        "test_accuracy": float(at.test_accuracy[i]),
                        "representation": kind,
                        "layer": layer,
                        "depth": depth,
                        "num_samples": n,
                        "num_null": NUM_NULL,
                        "num_features": num_varying,
                        "num_constant": x.shape[2] - num_varying,
                    }
                    for estimator, estimates in measured.items():
                        what = f"{kind} of layer {layer!r} of network {task.network!r} after epoch {at.epoch}"
                        records.append(
                            common
                            | {"estimator": estimator, "input_estimator": names[estimator], "label_estimator": names[estimator]}
                            | _described(jax.tree.map(lambda leaf, i=i: leaf[i], estimates), what)
                        )
        advance(1)
    return records


@jax.jit
def _measured(
    x: Float[Array, "seeds n d"], labels: Labels, low: Float[Array, " seeds"], high: Float[Array, " seeds"], noise: float
) -> dict[str, tuple[Estimate, Estimate]]:
    """Estimator -> estimates `[seeds]` of the input information, and `[seeds, 1 + nulls]` of the label information."""
    n, key = x.shape[1], jax.random.key(0)
    orders = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(key, NUM_NULL))
    orders = jnp.concatenate([jnp.arange(n)[None], orders])

    def both(estimator: Estimator, x: Float[Array, "n d"]) -> tuple[Estimate, Estimate]:
        of_labels = jax.vmap(lambda order: estimator(x, labels[order], key))(orders)
        return estimator(x, Labels.unique(n), key), of_labels

    def of_seed(x: Float[Array, "n d"], low: Array, high: Array) -> dict[str, tuple[Estimate, Estimate]]:
        return {
            "binned": both(Binned(NUM_BINS), fixed_cells(x, low, high, NUM_BINS)),
            "kde": both(KDE(noise), x),
            "kde_absolute": both(KDE(ABSOLUTE_NOISE / noise_variance(x, 1.0)), x),
        }

    return jax.vmap(of_seed)(x, low, high)


def _described(estimates: tuple[Estimate, Estimate], what: str) -> Record:
    of_input, of_label = estimates
    nulls = of_label.value[1:]
    described = {
        "input": describe(of_input, what),
        "label": describe(jax.tree.map(lambda leaf: leaf[0], of_label), what)
        | {"null": float(np.mean(nulls)), "null_upper": float(np.max(nulls))},
    }
    return {f"{variable}_{key}": value for variable, record in described.items() for key, value in record.items()}


def _edges(over_training: Sequence[np.ndarray], bounds: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest edge `[seeds]` of a layer's bins; one apart where the layer never varies."""
    low = np.min([np.min(x, axis=(1, 2)) for x in over_training], axis=0)
    high = np.max([np.max(x, axis=(1, 2)) for x in over_training], axis=0)
    if bounds is not None:
        low, high = np.full_like(low, bounds[0]), np.full_like(high, bounds[1])
    return low, np.where(high > low, high, low + 1)


def _network_params(like: Any, state: State) -> Any:
    """The parameters and statistics of a training's state, as those of a network in evaluation mode."""
    together = nnx.merge_state(state.params, state.statistics)
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(together))


def _each_seed(task: Task) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A compiled function of parameters with an axis of seeds and of what all seeds share, from one of a single seed."""

    def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
        if task.together:
            return jax.jit(lambda params, *shared: jax.vmap(lambda one: function(one, *shared))(params))
        compiled = jax.jit(function)

        def one_by_one(params: Any, *shared: Any) -> Any:
            each = [compiled(jax.tree.map(lambda leaf, i=i: leaf[i], params), *shared) for i in range(len(task.seeds))]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

        return one_by_one

    return mapped


def _check_finite(network: str, epoch: int, values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    bad = [f"{kind} of {layer}" for kind, layers in values.items() for layer, x in layers.items() if not np.isfinite(x).all()]
    if bad:
        raise ValueError(
            f"network {network!r} after epoch {epoch}: {', '.join(bad[:3])} not finite; training diverged, use a smaller "
            "learning rate and another --out"
        )
