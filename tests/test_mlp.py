"""The perceptron against NumPy."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from ipjax.models.mlp import as_network, mlp

ACTIVATIONS = {"tanh": (jax.numpy.tanh, np.tanh), "relu": (jax.nn.relu, lambda z: np.maximum(z, 0))}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_matches_numpy(name):
    activation, literal = ACTIVATIONS[name]
    model = mlp((5, 3), activation=activation, num_inputs=7, num_classes=4, rngs=nnx.Rngs(1))
    for layer in model.hidden:
        layer.bias[...] = 0.1  # zero biases would hide that they are added
    x = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    logits, values = as_network(model).activations(x, "all")
    h = x
    expected = {"input": x}
    for i, layer in enumerate(model.hidden):
        h = expected[f"hidden.{i}"] = literal(h @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]))
    expected["fc"] = h @ np.asarray(model.fc.kernel[...]) + np.asarray(model.fc.bias[...])
    chex.assert_trees_all_close(dict(values), expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(logits, expected["fc"], rtol=1e-5, atol=1e-6)


def test_default_layers_are_the_hidden_ones():
    net = as_network(mlp((5, 3), rngs=nnx.Rngs(0)))
    assert net.layers(np.zeros((1, 64), np.float32)) == ("input", "hidden.0", "hidden.1")


def test_weights_are_of_variance_one_over_inputs():
    kernel = mlp((200,), num_inputs=400, rngs=nnx.Rngs(0)).hidden[0].kernel[...]
    assert abs(400 * np.var(kernel) - 1) < 0.05  # 80,000 weights: standard error 0.005


@pytest.mark.parametrize("widths", [(), (4, 0)])
def test_layers_without_units_are_refused(widths):
    with pytest.raises(ValueError, match=r"widths: expected at least one hidden layer.*got"):
        mlp(widths, rngs=nnx.Rngs(0))
