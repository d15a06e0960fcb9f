"""How many steps of the path keep the error of conductance under what is asked for.

Let D be the distance of the trapezoid rule's sums of N and of 2N steps. At a kink of a network of rectified units the gradient
jumps, and the step in which it jumps has an error in proportion to the step's length: the rule is of first order, its error
halves with twice the steps. Where the jump falls anywhere in a step with equal probability and the layer changes at one rate
on both sides, the error of the 2N steps has a variance of D² / 3; where the layer's own rate jumps too, the error has a mean as
well, equal to that of D. So over many units D is from 1 to √3 times the error of the 2N steps, and serves as its estimate. (In
smooth networks the rule is of second order, and D is three times that error.) The rescale rule is right about single kinks and
misses pairs of them in one step: its error falls by up to 2^1.5 where the steps are doubled, so that D exceeds it by more. Of
few units, whose kinks may fall so that both sums agree by accident, D can be far too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jax import Array

from ipjax.conductance import Target, layer_conductance
from ipjax.quadrature import Quadrature, trapezoid
from ipjax.readout import Readout
from ipjax.taps import Input, Layers, Network

_ORDERS = {"trapezoid": 1.0, "rescale": 1.5}  # how fast the error falls, about at most, in a network with kinks
_PART = 8  # steps evaluated by one call: calls of one shape share compiled code


@dataclass(frozen=True)
class Steps:
    """Steps of a rule and the error that they are estimated to leave.

    **Attributes:**

    - `num_steps`: of the path.
    - `error`: layer -> estimated relative L2 error of its conductance with so many steps, mean over the images.
    - `history`: steps tried -> the same estimate of each layer.
    """

    num_steps: int
    error: Mapping[str, float]
    history: Mapping[int, Mapping[str, float]]

    @property
    def worst_layer(self) -> str:
        """The layer of the largest error."""
        return max(self.error, key=lambda name: self.error[name])


def steps_for(
    net: Network,
    x: Input,
    tolerance: float,
    *,
    layers: Layers = None,
    target: Target = "predicted",
    baseline: Input = 0.0,
    rule: Callable[[int], Quadrature] = trapezoid,
    readout: Readout | None = None,
    most: int = 1024,
) -> Steps:
    """The fewest steps, from 8 on, with which every layer's relative error is estimated to be at most `tolerance`.

    The error of a layer is |C_N - C| / |C|, with Euclidean norms over an image's units, or over its features after `readout`,
    mean over the images: give the readout with which the results are made. Steps are doubled until |C_N - C_2N| / |C_2N|, the
    estimate for 2N steps, is at most `tolerance` in every layer; their number is then reduced as far as an error in proportion
    to 1/N (trapezoid) or to 1/N^1.5 (rescale) allows. It is an estimate, as a rule from above, and for these images: others
    need more steps, or fewer.

    **Arguments:**

    - `x`: a pilot batch, a few images like those to come. The choice costs 2 to 5 times `num_steps` nodes of each.
    - `tolerance`: above 0, as 0.02.
    - `rule`: `ipjax.quadrature.trapezoid` or `ipjax.quadrature.rescale`.
    - `most`: steps tried at most, 16 or more; tried are 16, 32, 64 and so on.

    The others as those of `ipjax.layer_conductance`, with one target.

    **Raises:** `ValueError` where `most` steps do not suffice, and as `layer_conductance` does.
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance: expected a relative error above 0, as 0.02, got {tolerance}")
    if np.ndim(target) == 3:  # pyright: ignore[reportArgumentType]
        raise ValueError("target: expected one, got several; call for each, and take the largest number of steps")
    if not isinstance(most, int | np.integer) or most < 2 * _PART:
        raise ValueError(f"most: expected an integer of at least {2 * _PART} steps, got {most}")

    order = _ORDERS.get(rule(_PART).form)
    if order is None:
        raise ValueError(f"rule: expected ipjax.quadrature.trapezoid or rescale, got {rule}")

    def conductance(num_steps: int) -> dict[str, Array]:
        whole = rule(num_steps)
        nodes = np.asarray(whole.nodes)
        if len(nodes) != num_steps + 1:
            raise ValueError(f"rule: expected {num_steps + 1} nodes for {num_steps} steps, got {len(nodes)}")
        total: dict[str, Array] = {}
        for first in range(0, num_steps, _PART):
            part = replace(whole, nodes=nodes[first : first + _PART + 1], weights=np.full(_PART + 1, 1 / num_steps))
            values = layer_conductance(
                net, x, layers=layers, target=target, baseline=baseline, quadrature=part, readout=readout
            )
            total = {name: total[name] + value for name, value in values.items()} if total else values
        return total

    num_steps, coarse, history = _PART, conductance(_PART), {}
    while (num_steps := 2 * num_steps) <= most:
        fine = conductance(num_steps)
        history[num_steps] = {name: relative_error(coarse[name], fine[name]) for name in fine}
        largest = max(history[num_steps].values())
        if largest <= tolerance:
            fewest = max(num_steps // 2, math.ceil(num_steps * (largest / tolerance) ** (1 / order)))
            error = {name: value * (num_steps / fewest) ** order for name, value in history[num_steps].items()}
            return Steps(fewest, error, history)
        coarse = fine
    tried, errors = history.popitem()
    worst = max(errors, key=lambda name: errors[name])
    raise ValueError(
        f"tolerance: {tolerance} is not reached, {tried} steps leave about {errors[worst]:.2g} in layer {worst!r}; allow more, "
        "use a higher precision, or measure after a readout of fewer features"
    )


def relative_error(values: Array, reference: Array) -> float:
    """|values - reference| / |reference|, mean over the images; 0 for an image where both are 0.

    **Arguments:**

    - `values`, `reference`: `[batch, ...]`.
    """
    difference, norm = (
        np.linalg.norm(np.asarray(part, np.float64).reshape(len(part), -1), axis=1) for part in (values - reference, reference)
    )
    with np.errstate(divide="ignore"):
        return float(np.mean(np.where(difference == 0, 0, difference / np.where(difference == 0, 1, norm))))
