"""Layer conductance written out in NumPy float64: one image, one node at a time, derivatives by hand.

Slow and literal, for tests only. Each network here gives its layers, the gradient of weighted logits with respect to each
layer, and the directional derivative of each layer, all for one image; `apply` is the same network for `ipjax`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ipjax.models.convolution import convolution

Values = dict[str, np.ndarray]


def rule(name, n):
    """Nodes, weights and form, from the definitions."""
    k = np.arange(n + 1)
    gauss, gauss_weights = np.polynomial.legendre.leggauss(n + 1)
    return {
        "trapezoid": (k / n, None, "trapezoid"),
        "left": (k / n, None, "left"),
        "midpoint": ((k[:-1] + 0.5) / n, np.full(n, 1 / n), "tangent"),
        "gauss_legendre": ((1 + gauss) / 2, gauss_weights / 2, "tangent"),  # of n + 1 nodes
        "gausslegendre": ((1 + gauss) / 2, None, "left"),
        "riemann_trapezoid": (k / n, None, "left"),
        "riemann_left": (k / (n + 1), None, "left"),
        "riemann_middle": ((k + 0.5) / (n + 1), None, "left"),
        "riemann_right": ((k + 1) / (n + 1), None, "left"),
    }[name]


def layer_conductance(network, images, baselines, weights, nodes, node_weights, form) -> Values:
    """The sum over nodes of an image's path, `weights` [classes] or [batch, classes] on the logits."""
    weights = np.broadcast_to(weights, (len(images), network.num_classes))
    each = [
        _one_image(network, x, baseline, w, nodes, node_weights, form)
        for x, baseline, w in zip(images, np.broadcast_to(baselines, images.shape), weights, strict=True)
    ]
    return {name: np.stack([values[name] for values in each]) for name in each[0]}


def _one_image(network, x, baseline, weights, nodes, node_weights, form) -> Values:
    points = [baseline + a * (x - baseline) for a in nodes]
    layers = [network.layers(point) for point in points]
    gradients = [network.gradients(point, weights) for point in points]
    total = {name: np.zeros_like(value) for name, value in layers[0].items()}
    for name in total:
        if form == "tangent":
            for k, point in enumerate(points):
                total[name] += node_weights[k] * gradients[k][name] * network.rates(point, x - baseline)[name]
        else:
            for k in range(len(nodes) - 1):
                g = gradients[k][name]
                if form == "trapezoid":
                    g = (g + gradients[k + 1][name]) / 2
                total[name] += g * (layers[k + 1][name] - layers[k][name])
    return total


@dataclass
class MLP:
    """hidden = tanh(x W1 + b1); branch = tanh(hidden W2); block = hidden + branch; logits = block W3."""

    params: dict[str, Any]
    input_shape = (5,)
    num_classes = 3
    cuts = ("input", "hidden", "block", "logits")  # layers that no path from input to logits avoids

    @classmethod
    def random(cls, seed=0):
        rng = np.random.default_rng(seed)
        shapes = {"w1": (5, 6), "b1": (6,), "w2": (6, 6), "w3": (6, 3)}
        return cls({name: rng.standard_normal(shape) for name, shape in shapes.items()})

    @staticmethod
    def apply(params, x, tap):
        hidden = tap("hidden", jnp.tanh(x @ params["w1"] + params["b1"]))
        branch = tap("branch", jnp.tanh(hidden @ params["w2"]))
        return tap("logits", tap("block", hidden + branch) @ params["w3"])

    def layers(self, x) -> Values:
        p = self.params
        hidden = np.tanh(x @ p["w1"] + p["b1"])
        branch = np.tanh(hidden @ p["w2"])
        block = hidden + branch
        return {"input": x, "hidden": hidden, "branch": branch, "block": block, "logits": block @ p["w3"]}

    def gradients(self, x, weights) -> Values:
        p, h = self.params, self.layers(x)
        block = p["w3"] @ weights
        hidden = block + p["w2"] @ (block * (1 - h["branch"] ** 2))
        image = p["w1"] @ (hidden * (1 - h["hidden"] ** 2))
        return {"input": image, "hidden": hidden, "branch": block, "block": block, "logits": weights}

    def rates(self, x, direction) -> Values:
        p, h = self.params, self.layers(x)
        hidden = (direction @ p["w1"]) * (1 - h["hidden"] ** 2)
        branch = (hidden @ p["w2"]) * (1 - h["branch"] ** 2)
        block = hidden + branch
        return {"input": direction, "hidden": hidden, "branch": branch, "block": block, "logits": block @ p["w3"]}


@dataclass
class ConvNet:
    """conv = 3x3 convolution with bias of a 5x5x2 image, relu, mean over space, logits."""

    params: dict[str, Any]
    input_shape = (5, 5, 2)
    num_classes = 3
    cuts = ("input", "conv", "relu", "pool", "logits")

    @classmethod
    def random(cls, seed=0):
        rng = np.random.default_rng(seed)
        shapes = {"kernel": (3, 3, 2, 4), "bias": (4,), "w": (4, 3)}
        return cls({name: rng.standard_normal(shape) for name, shape in shapes.items()})

    @staticmethod
    def apply(params, x, tap):
        x = tap("conv", convolution(x, params["kernel"], (1, 1), ((0, 0), (0, 0))) + params["bias"])
        x = tap("relu", jax.nn.relu(x))
        return tap("logits", tap("pool", x.mean(axis=(1, 2))) @ params["w"])

    def convolve(self, x):
        kernel = self.params["kernel"]
        return sum(x[i : i + 3, j : j + 3] @ kernel[i, j] for i in range(3) for j in range(3))

    def layers(self, x) -> Values:
        conv = self.convolve(x) + self.params["bias"]
        relu = np.maximum(conv, 0)
        pool = relu.mean(axis=(0, 1))
        return {"input": x, "conv": conv, "relu": relu, "pool": pool, "logits": pool @ self.params["w"]}

    def gradients(self, x, weights) -> Values:
        pool = self.params["w"] @ weights
        relu = np.broadcast_to(pool / 9, (3, 3, 4))
        conv = relu * (self.layers(x)["conv"] > 0)
        image = np.zeros_like(x)
        for i in range(3):
            for j in range(3):
                image[i : i + 3, j : j + 3] += conv @ self.params["kernel"][i, j].T
        return {"input": image, "conv": conv, "relu": relu, "pool": pool, "logits": weights}

    def rates(self, x, direction) -> Values:
        conv = self.convolve(direction)
        relu = conv * (self.layers(x)["conv"] > 0)
        pool = relu.mean(axis=(0, 1))
        return {"input": direction, "conv": conv, "relu": relu, "pool": pool, "logits": pool @ self.params["w"]}
