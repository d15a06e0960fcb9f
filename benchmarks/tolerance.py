"""How well the distance of two sums estimates the error of conductance, on the digits checkpoints.

    python -m benchmarks.tolerance

D, the distance of the sums of N/2 and N steps, is what `ipjax.steps_for` goes by; the true error of N steps is the distance
from 4,096 of the trapezoid rule. Both are relative to the norm of a layer's conductance, of its units or of its features, mean
over the images. By theory (`ipjax.tolerance`) the true error of the trapezoid rule lies between D / √3 and D, and halves with
twice the steps; that of the rescale rule is smaller and falls faster. Nothing is fitted.
Then the steps that a pilot of `num_images` images chooses, and the true errors of the worst layer on these images and on as
many others. Takes about three minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

import ipjax
import ports
from benchmarks.environment import environment, print_table, write
from experiments.features import SKETCH
from ipjax.conductance import ByLayer
from ipjax.data.digits import digits_in_clutter
from ipjax.quadrature import Quadrature, rescale, trapezoid
from ipjax.readout import CountSketch, Readout, channel_sum
from ipjax.tolerance import relative_error

ROUNDING = 1e-5  # an error of this size is of rounding: behind `avgpool` all is linear, and its conductance exact
Rule = Callable[[int], Quadrature]
RULES: dict[str, Rule] = {"trapezoid": trapezoid, "rescale": rescale}
READOUTS: dict[str, Readout | None] = {"units": None, "sketch": CountSketch(SKETCH), "channels": channel_sum}


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    networks: tuple[str, ...] = ("resnet50",)
    """architectures with an embedded digits checkpoint"""
    rules: tuple[Literal["trapezoid", "rescale"], ...] = ("trapezoid", "rescale")
    targets: tuple[Literal["predicted", "contrast"], ...] = ("contrast",)
    num_images: int = 8
    """of the pilot, and as many others"""
    num_steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    """each twice the one before"""
    reference: int = 4096
    """steps that stand for the integral"""
    tolerances: tuple[float, ...] = (0.1, 0.05, 0.02, 0.01)
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints the tables and returns their rows."""
    images = digits_in_clutter("test", 2 * config.num_images).images
    numbers: dict[str, Any] = {"environment": environment(), "errors": [], "chosen": []}
    for network in config.networks:
        net = ports.load(network, "digits")
        for target in config.targets:
            exact = ipjax.layer_conductance(net, images, target=target, quadrature=trapezoid(config.reference))
            for name in config.rules:
                about = {"network": network, "target": target, "rule": name}
                sums = {
                    steps: ipjax.layer_conductance(net, images, target=target, quadrature=RULES[name](steps))
                    for steps in config.num_steps
                }
                for of in READOUTS:
                    read = {num_steps: _read(of, values) for num_steps, values in sums.items()}
                    rows = _errors(read, _read(of, exact), config)
                    numbers["errors"] += [about | {"of": of} | row for row in rows]
                rows = _chosen(net, images, target, RULES[name], _read("sketch", exact), config)
                numbers["chosen"] += [about | row for row in rows]
    for part in ("errors", "chosen"):
        print_table(numbers[part])
    write(config.out, numbers)
    return numbers


def _read(of: str, values: ByLayer) -> ByLayer:
    """Units or features; readouts are linear."""
    readout = READOUTS[of] or (lambda units: units)
    return {name: readout(units) for name, units in values.items()}


def _errors(sums: dict[int, ByLayer], exact: ByLayer, config: Config) -> list[dict[str, Any]]:
    """Of the layers the mean, and of the ratios of true error and D the median, least and largest."""
    rows, before = [], None
    for num_steps in config.num_steps:
        values = sums[num_steps]
        true = {name: relative_error(values[name], exact[name]) for name in exact}
        row = {"steps": num_steps, "error": float(np.mean(list(true.values()))), "worst": max(true.values())}
        row["worst_layer"] = max(true, key=lambda name: true[name])
        if before is not None:
            ratios = [true[name] / relative_error(before[name], values[name]) for name in exact if true[name] > ROUNDING]
            row |= {"order": float(np.log2(rows[-1]["error"] / row["error"])), "over_D": float(np.median(ratios))}
            row |= {"least": min(ratios), "largest": max(ratios)}
        rows.append(row)
        before = values
    return rows


def _chosen(
    net: ipjax.Network, images: np.ndarray, target: Any, rule: Rule, exact: ByLayer, config: Config
) -> list[dict[str, Any]]:
    """What a pilot chooses for the features of the sketch, and the error of the worst layer that comes of it."""
    rows, n = [], config.num_images
    for tolerance in config.tolerances:
        steps = ipjax.steps_for(net, images[:n], tolerance, target=target, rule=rule, readout=READOUTS["sketch"])
        chosen = rule(steps.num_steps)
        values = ipjax.layer_conductance(net, images, target=target, quadrature=chosen, readout=READOUTS["sketch"])
        row = {"tolerance": tolerance, "steps": steps.num_steps, "estimated": steps.error[steps.worst_layer]}
        for name, some in (("pilot", slice(n)), ("others", slice(n, None))):
            row[name] = max(relative_error(values[layer][some], exact[layer][some]) for layer in exact)
        rows.append(row | {"worst_layer": steps.worst_layer})
    return rows


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
