"""Which layer of a network is a function of which other layer alone: the dominators of its data-flow graph.

A layer dominates another where every path from the input to the other passes through it (Lengauer and Tarjan 1979, "A fast
algorithm for finding dominators in a flowgraph"). Inside a residual branch no layer dominates what comes after the sum, the
input of the block does. The graph is that of a trace of the network with a mark at every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from ipjax.taps import Input, Layers, Network

MARK = "ipjax layer:"  # not that of the adapters, whose marks may be left in bodies that they do not enter
ENTERED = ("jit", "remat2", "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")

Passed = frozenset[str] | None  # layers on every path from the input to a value; `None` for one that does not depend on it


def dominators(net: Network, x: Input, layers: Layers = None) -> dict[str, str | None]:
    """For each layer, the nearest other one that it is a function of alone (with the parameters); `None` where there is none.

    A layer that has one is a function of it for certain; the converse need not be so: paths are those of the program, so a
    value that a network computes and multiplies by 0 counts as used, and loops and conditionals count as one step in which
    every output uses every input. None have `input`, layers that join several inputs, what does not depend on the input
    and, with `Network.start`, what goes around that layer. Nothing is computed but shapes.

    **Arguments:**

    - `x`: inputs, of which only shapes and dtypes matter: arrays or `jax.ShapeDtypeStruct`.
    - `layers`: as in `Network.layers`, the layers to answer for and to choose from.

    **Returns** layer -> layer, in forward order.

    **Raises:** as `Network.layers` does; `ValueError` for layers inside loops or conditionals.
    """
    chosen = net.layers(x, layers)

    def marked(net: Network, x: Input) -> Array:
        return net.run(x, lambda name, value: checkpoint_name(value, MARK + name))

    program = jax.make_jaxpr(marked)(net, x)
    of_parameters: list[Passed] = [None] * len(jax.tree.leaves(net))
    of_input: list[Passed] = [frozenset()] * len(jax.tree.leaves(x))
    passed: dict[str, Passed] = {}
    _follow(program.jaxpr, [*of_parameters, *of_input], passed)
    if inside := [layer for layer in chosen if layer not in passed]:
        raise ValueError(
            f"layers inside loops or conditionals have no place in the graph: {', '.join(inside)}; tap them outside"
        )
    return {layer: _nearest((passed[layer] or frozenset()) & {*chosen} - {layer}, passed) for layer in chosen}


def body_of(equation: core.JaxprEqn) -> core.ClosedJaxpr:
    """The program that one of the `ENTERED` equations runs."""
    body: Any = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return body if isinstance(body, core.ClosedJaxpr) else core.ClosedJaxpr(body, ())


def bound(equation: core.JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation of these values."""
    with equation.ctx.manager:
        results = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
    return results if equation.primitive.multiple_results else [results]


def _nearest(candidates: frozenset[str], passed: dict[str, Passed]) -> str | None:
    """Dominators of one layer dominate each other in a chain, so the nearest has passed the most."""
    return max(candidates, key=lambda name: len(passed[name] or ()), default=None)


def _follow(jaxpr: core.Jaxpr, inputs: Sequence[Passed], passed: dict[str, Passed]) -> list[Passed]:
    """What the outputs of a jaxpr have passed; adds what each marked layer has, itself included."""
    known: dict[Any, Passed] = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> Passed:
        return None if isinstance(atom, core.Literal) else known.get(atom)  # constants are not among the known

    for equation in jaxpr.eqns:
        operands = [of(atom) for atom in equation.invars]
        name = str(equation.params.get("name"))
        if equation.primitive.name == "name" and name.startswith(MARK):
            layer = name.removeprefix(MARK)
            passed[layer] = None if operands[0] is None else operands[0] | {layer}
            results = [passed[layer]]
        elif equation.primitive.name in ENTERED:
            results = _follow(body_of(equation).jaxpr, operands, passed)
        else:
            depends = [operand for operand in operands if operand is not None]
            results = [frozenset.intersection(*depends) if depends else None] * len(equation.outvars)
        known.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]
