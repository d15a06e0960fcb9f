"""Gradients over a step of the path, in place of gradients at a point: DeepLIFT's multipliers.

For a step from x to x + dx, the multipliers m of a layer that cuts all paths account for the change of the output: the sum of
m · dh is F(x + dx) - F(x), exactly where the network consists of affine maps and choices between two values. That is the
Rescale rule of Shrikumar, Greenside and Kundaje 2017 (arXiv:1704.02685): what is affine keeps its derivative, a kink has the
slope of its secant. A step that crosses a kink at one third of its length then counts two thirds of what is behind it, where a
derivative at one end counts all or nothing.

Here the two ends of a step are neighbouring nodes of a path, which are evaluated together by `jax.vmap`. The function is
evaluated equation by equation, and a choice (ReLU, `max`, `min`, `abs`, `where`, pooling by small windows) gets the slope of
its secant. What bends otherwise (products of two values on the path, smooth functions such as a softmax or a normalisation,
loops, functions with derivatives of their own) is refused: a step may begin where its derivative is beyond all bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

from ipjax.graph import ENTERED, body_of, bound
from ipjax.models.convolution import window_max

_ENTERED = frozenset(ENTERED) - {"custom_vjp_call"}  # whose derivative would be lost
# Linear in all operands together, in each of two alone, in all but indices.
_LINEAR = frozenset(
    [
        *("add", "add_any", "broadcast_in_dim", "concatenate", "conj", "convert_element_type", "copy", "copy_p", "cumsum"),
        *("device_put", "expand_dims", "fft", "imag", "name", "neg", "optimization_barrier", "pad", "pcast", "pvary", "real"),
        *("reduce_precision", "reduce_sum", "reduce_window_sum", "reshape", "rev", "sharding_constraint", "slice", "split"),
        *("squeeze", "stack", "sub", "tile", "transpose", "unstack"),
    ]
)
_BILINEAR = frozenset(("conv_general_dilated", "dot_general", "mul"))
_LINEAR_BUT_LAST = {"div": 1, "dynamic_slice": 1, "gather": 1, "dynamic_update_slice": 2}  # operands that may move
_WIDEST = 16  # window that is pooled by comparisons


def over_steps(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, with the multipliers of the step to the next node as its derivative.

    For `jax.grad` inside a `jax.vmap` over the nodes of a path: the gradient at a node is then that of the step from it to the
    next one, and at the last node it means nothing. Without a `jax.vmap`, as for a step of no length, it is the plain gradient
    (of two equal values the second's, where `jax.numpy.maximum` takes half of each).

    **Arguments:**

    - `arguments`: pytrees of arrays, all that changes along the path; what else the function has does not.

    **Raises:** `ValueError` for a function that bends otherwise than by choices.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    results, _ = _evaluate(closed.jaxpr, closed.consts, leaves, [True] * len(leaves))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _evaluate(
    jaxpr: core.Jaxpr, constants: Sequence[Any], values: Sequence[Any], moving: Sequence[bool]
) -> tuple[list[Any], list[bool]]:
    """The outputs of a jaxpr, and which of them change along the path."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *values), strict=True))
    moves = dict(zip(jaxpr.invars, moving, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    def on_path(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and moves.get(atom, False)

    for equation in jaxpr.eqns:
        operands, of_path = ([of(atom) for atom in equation.invars] for of in (read, on_path))
        results, moved = _apply(equation, operands, of_path)
        known.update(zip(equation.outvars, results, strict=True))
        moves.update(zip(equation.outvars, moved, strict=True))
    return [read(atom) for atom in jaxpr.outvars], [on_path(atom) for atom in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, operands: list[Any], moving: list[bool]) -> tuple[Sequence[Any], Sequence[bool]]:
    name = equation.primitive.name
    every = [any(moving)] * len(equation.outvars)
    if _is_linear(equation, moving):
        return bound(equation, operands), every
    if name in _ENTERED and (name != "custom_jvp_call" or _is_relu(equation)):
        body = body_of(equation)
        return _evaluate(body.jaxpr, body.consts, operands, moving)
    if name == "reduce_window_max" and _is_small_window(equation.params):
        chosen = [equation.params[key] for key in ("window_dimensions", "window_strides", "padding")]
        comparisons = jax.make_jaxpr(lambda x: window_max(x, *chosen))(*operands)
        return _evaluate(comparisons.jaxpr, comparisons.consts, operands, moving)
    if name in ("max", "min", "abs") and jnp.isrealobj(operands[0]):
        a, b = jnp.broadcast_arrays(*(operands if name != "abs" else (operands[0], -operands[0])))
        return [_shared(bound(equation, operands)[0], b - a if name == "min" else a - b, a, b)], every
    if name == "select_n" and len(operands) == 3 and operands[0].dtype == bool:
        which, off, on = operands
        # At a kink both are the same: their distance says how far it is. Where one is no number, the choice alone counts.
        distance = jnp.nan_to_num(jnp.abs(on - off), nan=1.0, posinf=1.0) + jnp.finfo(on.dtype).tiny
        return [_shared(bound(equation, operands)[0], jnp.where(which, distance, -distance), on, off)], every
    raise ValueError(
        "quadrature: the rescale rule is for networks of affine maps and choices (ReLU, max, where, pooling), found "
        f"{name!r} of values that change along the path; use ipjax.quadrature.trapezoid"
    )


def _is_small_window(parameters: dict[str, Any]) -> bool:
    dilations = {*parameters["base_dilation"], *parameters["window_dilation"]}
    return dilations == {1} and max(parameters["window_dimensions"]) <= _WIDEST


def _is_relu(equation: core.JaxprEqn) -> bool:
    """Whether it is `jax.nn.relu` or `relu6`, and no function whose derivative of its own would be lost."""
    return [inner.params.get("name") for inner in body_of(equation).jaxpr.eqns] in (["relu"], ["relu6"])


def _is_linear(equation: core.JaxprEqn, moving: Sequence[bool]) -> bool:
    """Whether an equation's derivative is the same at both ends of a step: it is affine in what moves, or has none."""
    name = equation.primitive.name
    avals: list[Any] = [atom.aval for atom in equation.outvars]
    if not any(moving) or not any(jnp.issubdtype(aval.dtype, jnp.inexact) for aval in avals):
        return True
    if name in _ENTERED:
        body = body_of(equation).jaxpr
        moves = dict(zip(body.invars, moving, strict=True))
        for inner in body.eqns:
            of_path = [not isinstance(atom, core.Literal) and moves.get(atom, False) for atom in inner.invars]
            if not _is_linear(inner, of_path):
                return False
            moves.update(dict.fromkeys(inner.outvars, any(of_path)))
        return True
    return (
        name in _LINEAR
        or (name in _BILINEAR and sum(moving) == 1)
        or (name in _LINEAR_BUT_LAST and not any(moving[_LINEAR_BUT_LAST[name] :]))
        or (name == "select_n" and not moving[0])
    )


@jax.custom_batching.custom_vmap
def _following(values: Array) -> Array:
    """The same values at the next node, zeros at the last one; of what is the same at all nodes, itself."""
    return values


@_following.def_vmap
def _following_node(_: int, __: list[bool], values: Array) -> tuple[Array, bool]:
    zero = jnp.zeros((), values.dtype)
    return lax.pad(values, zero, [(-1, 1, 0)] + [(0, 0, 0)] * (values.ndim - 1)), True  # XLA fuses it, unlike a gather


@jax.custom_vjp
def _shared(value: Array, side: Array, on: Array, off: Array) -> Array:
    """`value`, which is `on` where `side` is positive, else `off`: they share its derivative as the step is on either side.

    ReLU of -1 at one node and of 3 at the next: the side is -1, then 3, so three quarters of the step are behind the kink, and
    3/4 is its slope, (3 - 0) / (3 - -1).
    """
    return value


def _shared_forward(value: Array, side: Array, on: Array, off: Array) -> tuple[Array, Array]:
    return value, side


def _shared_backward(side: Array, cotangent: Array) -> tuple[None, None, Array, Array]:
    side = side.astype(jnp.promote_types(side.dtype, jnp.float32))
    after = _following(side)
    stays = (side > 0) == (after > 0)
    behind = (jnp.maximum(after, 0) - jnp.maximum(side, 0)) / jnp.where(stays, 1, after - side)
    share = jnp.where(stays, side > 0, behind).astype(cotangent.dtype)
    return None, None, cotangent * share, cotangent * (1 - share)


_shared.defvjp(_shared_forward, _shared_backward)
