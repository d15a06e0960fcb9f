"""What fewer bits in the network change in the features and in the plane, on the digits ResNet.

    python -m benchmarks.precision

Compared with `--dtype float32 --precision highest`: the network in bfloat16 (`--dtype bfloat16`), and its products with the
operands that accelerators give them under `--precision high` and `default`. A CPU computes float32 products alike under
every precision, so what an accelerator would do is emulated: the operands of all convolutions, and of their gradients with
respect to the input, are rounded (to 8 bits for bfloat16, 11 for tensorfloat32, 16 for three bfloat16 products), the products
are summed in float32. The last dense layer is left as it is. An emulation is no measurement on an accelerator, whose
sums run in another order. That the CPU's own `default` changes nothing is shown as well.

Features are of the activations and of the conductances to the contrast; information by KDE without null and intervals.
Takes about six minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

import ipjax
import ports
from benchmarks.environment import write
from experiments.features import Arrays, Extraction
from experiments.runner import _in_precision
from ipjax.data.digits import digits_in_clutter
from ipjax.estimators import KDE
from ipjax.models import convolution

REPRESENTATIONS = ("activation", "contrast")
BITS = 1 / np.log(2)


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    num_images: int = 256
    num_steps: int = 16
    noise: float = 0.1
    """of KDE, as in the experiments"""
    seed: int = 0
    out: Path | None = None
    """where to write the numbers as JSON"""


@dataclass(frozen=True)
class Variant:
    """How the network computes; `kept` are the bits of a product's operands, of 24, where they are emulated."""

    dtype: str = "float32"
    precision: str = "highest"
    kept: int | None = None


REFERENCE = Variant()
VARIANTS = {
    "float32, default on this CPU": Variant(precision="default"),
    "float32, high on a TPU": Variant(kept=16),
    "float32, default on a GPU": Variant(kept=11),
    "float32, default on a TPU": Variant(kept=8),
    "bfloat16": Variant(dtype="bfloat16"),
}


@dataclass(frozen=True)
class Measured:
    """Features of all images and what KDE makes of them, in bits; ITE is `None` where it is withheld."""

    arrays: Arrays
    plane: dict[tuple[str, str], dict[str, float | None]]


def main(config: Config) -> dict[str, Any]:
    """Prints the changes and returns them."""
    net = ports.load("resnet50", "digits")
    data = digits_in_clutter("test", config.num_images, seed=config.seed)
    names = net.layers(np.zeros((1, *data.shape), np.float32))
    reference = _measured(net, names, data, REFERENCE, config)
    numbers: dict[str, Any] = {"num_images": config.num_images, "num_steps": config.num_steps, "layers": names}
    numbers["variants"] = {}
    for title, variant in VARIANTS.items():
        changes = _changes(reference, _measured(net, names, data, variant, config), names)
        numbers["variants"][title] = changes
        print(f"{title}: {changes['agreement']:.1%} of the predictions agree")
        for name in REPRESENTATIONS:
            found = changes[name]
            print(
                f"  {name:10}  features differ by {found['median_error']:.2g} in the median layer, at most"
                f" {found['largest_error']:.2g} ({found['worst_layer']}); bits of the input by at most"
                f" {found['input_information']:.2g}, of the label {found['label_information']:.2g},"
                f" ITE {found['ite']:.2g} ({found['num_ite']} layers)"
            )
    numbers["reference_gap"] = _gap(reference.arrays, names)
    print(f"\nlargest completeness gap of a layer: {numbers['reference_gap']:.3f} at highest precision; of these variants")
    print(", ".join(f"{changes['gap']:.3f}" for changes in numbers["variants"].values()))
    for name in REPRESENTATIONS:
        for axis in ("input_information", "label_information"):
            bits = [reference.plane[name, layer][axis] or 0.0 for layer in names]
            numbers[f"reference_{name}_{axis}"] = (min(bits), max(bits))
            print(f"{axis} of the {name} at highest precision: {min(bits):.2f} to {max(bits):.2f} bits")
    for name in REPRESENTATIONS:
        print(f"\n{name}, |difference| / |features|, variants in this order:")
        for layer in names:
            errors = [changes[name]["errors"][layer] for changes in numbers["variants"].values()]
            print(f"{layer:12}" + "".join(f"{error:12.2g}" for error in errors))
    write(config.out, numbers)
    return numbers


def _measured(net: ipjax.Network, names: tuple[str, ...], data: Any, variant: Variant, config: Config) -> Measured:
    rounded = nullcontext() if variant.kept is None else products_with(variant.kept)
    images = data.images.astype(np.float32)
    with jax.default_matmul_precision(variant.precision), rounded:
        extraction = Extraction(_in_precision(net, variant.dtype), names, "sketch", config.num_steps, config.seed, 32, 17)
        arrays = extraction(images, np.ones(len(images), bool), 0)
    plane = {}
    for representation in REPRESENTATIONS:
        features = {layer: arrays[f"features/{representation}/{layer}"] for layer in names}
        kde = KDE(config.noise)
        with jax.default_matmul_precision("highest"):
            measured = ipjax.measure_plane(
                features, data.labels, input_information=kde, label_information=kde, num_null=0, num_subsamples=0
            )
        efficiencies = ipjax.information_transformation_efficiency(measured)
        for record in measured.records:
            axes = {f"{axis}_information": record[f"{axis}_information"] * BITS for axis in ("input", "label")}
            plane[representation, record["layer"]] = axes | {"ite": efficiencies[record["layer"]].value}
    return Measured(arrays, plane)


def _changes(reference: Measured, other: Measured, names: tuple[str, ...]) -> dict[str, Any]:
    """Relative errors of the features of every layer; the largest absolute changes of bits and ITE over the layers."""
    agreement = np.mean(reference.arrays["predicted"] == other.arrays["predicted"])
    changes: dict[str, Any] = {"agreement": float(agreement), "gap": _gap(other.arrays, names)}
    for representation in REPRESENTATIONS:
        key = f"features/{representation}/"
        errors = {layer: _error(reference.arrays[key + layer], other.arrays[key + layer]) for layer in names}
        found: dict[str, Any] = {"errors": errors, "median_error": float(np.median(list(errors.values())))}
        found |= {"largest_error": max(errors.values()), "worst_layer": max(errors, key=lambda layer: errors[layer])}
        for axis in ("input_information", "label_information", "ite"):
            pairs = [(plane[representation, layer][axis] for plane in (reference.plane, other.plane)) for layer in names]
            differences = [abs(a - b) for a, b in pairs if a is not None and b is not None]
            found |= {axis: max(differences, default=np.nan), f"num_{axis}": len(differences)}
        changes[representation] = found
    return changes


def _error(reference: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(other - reference) / np.linalg.norm(reference))


def _gap(arrays: Arrays, names: tuple[str, ...]) -> float:
    """Of the layers the largest mean |completeness gap| over the mean |change| of the contrast."""
    change = np.mean(np.abs(arrays["change/contrast"]))
    return float(max(np.mean(np.abs(arrays[f"gap/contrast/{layer}"])) / change for layer in names))


@contextmanager
def products_with(kept: int) -> Iterator[None]:
    """Convolutions of the networks, and their gradients, with operands of so many bits, for what is traced inside."""
    plain, matmul = convolution._plain, jnp.matmul

    def rounded(x: Array) -> Array:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=kept - 1)

    def rounded_plain(x: Array, kernel: Array, *args: Any, layout: str = "HWIO") -> Array:
        if layout == "HWIO":
            return plain(rounded(x), rounded(kernel), *args, layout=layout)
        # The derivative, of which the transpose runs: rounding its result rounds what the transpose multiplies.
        return rounded(plain(x, rounded(kernel), *args, layout=layout))

    @jax.custom_jvp
    def rounded_matmul(x: Array, kernel: Array) -> Array:
        return matmul(rounded(x), rounded(kernel))

    @rounded_matmul.defjvp
    def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:  # parameters are constant
        return rounded_matmul(*primals), rounded(matmul(tangents[0], rounded(primals[1])))

    patched: Callable[..., AbstractContextManager] = patch.object
    jax.clear_caches()  # of what was traced outside
    with (
        patched(convolution, "_plain", rounded_plain),
        patched(jnp, "matmul", lambda x, kernel, precision=None: rounded_matmul(x, kernel)),
    ):
        yield
    jax.clear_caches()


if __name__ == "__main__":
    main(tyro.cli(Config))
