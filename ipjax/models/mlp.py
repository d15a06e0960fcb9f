"""A multilayer perceptron in Flax NNX, as narrow as those of the first information planes through training.

Shwartz-Ziv and Tishby 2017 (arXiv:1703.00810) and Saxe et al. 2018 ("On the information bottleneck theory of deep learning")
train networks of a few units a layer with tanh or ReLU, on which binning still tells inputs apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from flax import nnx
from jax import Array
from jaxtyping import Float

from ipjax.taps import Network, Tap, from_tapping_module


def mlp(
    widths: Sequence[int],
    *,
    activation: Callable[[Array], Array] = nnx.tanh,
    num_inputs: int = 64,
    num_classes: int = 10,
    rngs: nnx.Rngs,
) -> MLP:
    """A randomly initialised perceptron (truncated normal weights of variance 1 / inputs, as in both papers; zero biases).

    **Arguments:**

    - `widths`: units of each hidden layer.
    - `activation`: of the hidden layers, for instance `jax.numpy.tanh` or `jax.nn.relu`.

    **Raises:** `ValueError` for no hidden layer, or one without units.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected at least one hidden layer, of at least 1 unit each, got {tuple(widths)}")
    return MLP(widths, activation, num_inputs, num_classes, rngs)


def as_network(model: MLP) -> Network:
    """The model as a `Network`; default layers: the hidden ones, `hidden.0` and on."""
    names = tuple(f"hidden.{i}" for i in range(len(model.hidden)))
    return from_tapping_module(model, names, input_shape=(model.num_inputs,))


class MLP(nnx.Module):
    """`model(x, tap)`: x [batch, inputs] to logits [batch, classes]; taps every hidden layer after its activation."""

    def __init__(self, widths: Sequence[int], activation: Callable, num_inputs: int, num_classes: int, rngs: nnx.Rngs):
        self.activation = activation
        self.num_inputs = num_inputs
        sizes = (num_inputs, *widths)
        self.hidden = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in pairwise(sizes)])
        self.fc = nnx.Linear(sizes[-1], num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch inputs"], tap: Tap = lambda name, value: value) -> Array:
        for i, layer in enumerate(self.hidden):
            x = tap(f"hidden.{i}", self.activation(layer(x)))
        return tap("fc", self.fc(x))
