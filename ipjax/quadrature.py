"""Quadrature rules on [0, 1], the path from baseline to input.

Two forms of the path integral  ∫ dF/dh(a) · dh/da da  are used. The *Stieltjes* form needs no derivative of the layer: it
multiplies a gradient with the layer's increment over a step,  Σ g · (h[k+1] - h[k]).  The *tangent* form is the plain rule
Σ w[k] · g[k] · dh/da[k],  with dh/da from a Jacobian-vector product.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quadrature:
    """Nodes, ascending, and how neighbouring nodes make the integral.

    **Attributes:**

    - `nodes`: `[num_nodes]`, positions on [0, 1].
    - `weights`: `[num_nodes]`, of the plain rule ∫ f da ≈ Σ weights · f(nodes).
    - `form`: `"trapezoid"`, `"left"` and `"rescale"` are of Stieltjes form, with the gradient averaged over both ends of a
        step, taken at its left end, or of the step as a whole; there `weights` serve only `neuron_conductance`. `"tangent"` is
        the tangent form.
    """

    nodes: Float[np.ndarray, " num_nodes"]
    weights: Float[np.ndarray, " num_nodes"]
    form: Literal["trapezoid", "left", "rescale", "tangent"] = field(metadata={"static": True})


def trapezoid(num_steps: int) -> Quadrature:
    """Uniform nodes with both ends, mean gradient of a step times its increment: `num_steps + 1` nodes.

    The default: second order in the step where Captum's left rule is of first, both of first order at kinks.
    """
    nodes, widths = _uniform(num_steps)
    weights = (np.append(widths, 0) + np.append(0, widths)) / 2
    return Quadrature(nodes, weights, "trapezoid")


def left(num_steps: int) -> Quadrature:
    """Uniform nodes with both ends, left gradient of a step times its increment: `num_steps + 1` nodes."""
    nodes, widths = _uniform(num_steps)
    return Quadrature(nodes, np.append(widths, 0), "left")


def rescale(num_steps: int) -> Quadrature:
    """Uniform nodes with both ends, the multiplier of a step times its increment: `num_steps + 1` nodes.

    The multipliers are those of DeepLIFT's Rescale rule (Shrikumar, Greenside and Kundaje 2017, arXiv:1704.02685), of each
    step from its own start, see `ipjax.multipliers`. In networks of rectified units `rescale(1)` is DeepLIFT from baseline to
    input; many steps converge to conductance, fewer of them than the trapezoid rule needs; and with any number the conductance
    is complete at layers that cut every path. Networks with smooth functions or products of values are refused.
    """
    return replace(trapezoid(num_steps), form="rescale")


def midpoint(num_steps: int) -> Quadrature:
    """The midpoint rule in tangent form: `num_steps` nodes, each with a Jacobian-vector product."""
    nodes, widths = _uniform(num_steps)
    return Quadrature((nodes[:-1] + nodes[1:]) / 2, widths, "tangent")


def gauss_legendre(num_steps: int) -> Quadrature:
    """Gauss-Legendre nodes in tangent form: `num_steps` nodes, each with a Jacobian-vector product.

    On the layer `input` it is Captum's integrated gradients with `method="gausslegendre"`.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_checked(num_steps))
    return Quadrature((nodes + 1) / 2, weights / 2, "tangent")


CaptumMethod = Literal["gausslegendre", "riemann_trapezoid", "riemann_left", "riemann_middle", "riemann_right"]


def captum(n_steps: int, method: CaptumMethod = "gausslegendre") -> Quadrature:
    """The rule of Captum's `LayerConductance`, for parity: the nodes of `method` at `n_steps + 1` points, left gradients
    times increments. As in Captum the method moves the nodes only; its weights serve `neuron_conductance`.
    """
    count = _checked(n_steps) + 1
    steps = np.arange(count)
    widths = np.full(count, 1 / count)
    if method == "gausslegendre":
        rule = gauss_legendre(count)
        nodes, widths = rule.nodes, rule.weights
    elif method == "riemann_trapezoid":
        nodes = steps / n_steps
        widths[[0, -1]] /= 2
    elif method == "riemann_left":
        nodes = steps / count
    elif method == "riemann_middle":
        nodes = (steps + 0.5) / count
    elif method == "riemann_right":
        nodes = (steps + 1) / count
    else:
        methods = ", ".join(CaptumMethod.__args__)
        raise ValueError(f"method: expected one of {methods}, got {method!r}")
    return Quadrature(nodes, widths, "left")


def _uniform(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes = np.linspace(0, 1, _checked(num_steps) + 1)
    return nodes, np.diff(nodes)


def _checked(num_steps: int) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise ValueError(f"number of steps: expected an integer of at least 1, got {num_steps!r}")
    return int(num_steps)
