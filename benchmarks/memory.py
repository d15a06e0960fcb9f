"""Memory of every estimator on a large layer, beyond the layer itself, as XLA plans it: nothing is run, so any size will do.

    python -m benchmarks.memory --num-samples 50000 --num-features 2048

Takes about a minute of compiling. Checks of the data in `mutual_information` are not in these numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from ipjax.estimators import (
    CKA,
    HSIC,
    KDE,
    KSG,
    NWJ,
    SMILE,
    Binned,
    DonskerVaradhan,
    GaussianChannel,
    InfoNCE,
    Labels,
    Probe,
    Projected,
    Renyi,
    Ross,
)

FOR_LABELS: dict[str, Any] = {
    "KDE": KDE(),
    "Ross": Ross(),
    "GaussianChannel": GaussianChannel(),
    "Renyi": Renyi(),
    "Binned": Binned(),
    "Binned, single units": Binned(code="unit"),
    "Projected Ross": Projected(),
    "Probe": Probe(),
    "InfoNCE": InfoNCE(),
    "NWJ": NWJ(),
    "DonskerVaradhan": DonskerVaradhan(),
    "SMILE": SMILE(),
    "HSIC, linear": HSIC(),
    "HSIC, Gaussian": HSIC(kernel="gaussian"),
    "CKA, linear": CKA(),
    "CKA, Gaussian": CKA(kernel="gaussian"),
}
NEED_LABELS = ("Ross", "Probe", "Projected Ross", "Binned, single units")
OF_INPUT = (
    "KDE",
    "GaussianChannel",
    "Renyi",
    "Binned",
    "Binned, single units",
)  # those that take every sample as a label of its own
FOR_FEATURES = {name: e for name, e in (FOR_LABELS | {"KSG": KSG()}).items() if name not in NEED_LABELS}


@dataclass(frozen=True)
class Config:
    """The layer; a floating y is as large."""

    num_samples: int = 50_000
    num_features: int = 2048
    num_classes: int = 10


def main(config: Config) -> None:
    """Prints a line for each estimator and kind of y."""
    n, d = config.num_samples, config.num_features
    print(f"[{n}, {d}]: {n * d * 4 / 2**30:.2f} GiB; beyond it in GiB:")
    features, index = jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    for name, estimator in FOR_LABELS.items():
        _print(f"{name}, labels", estimator, features, Labels(index, config.num_classes))  # pyright: ignore[reportArgumentType]
    for name in OF_INPUT:
        _print(f"{name}, own labels", FOR_LABELS[name], features, Labels(index, n, distinct=True))  # pyright: ignore[reportArgumentType]
    for name, estimator in FOR_FEATURES.items():
        _print(f"{name}, floating y", estimator, features, features)


def _print(name: str, estimator: Any, x: Any, y: Any) -> None:
    print(f"{name:32} {beyond_the_data(estimator, x, y) / 2**30:8.2f}", flush=True)


def beyond_the_data(estimator: Any, x: Any, y: Any) -> int:
    """Bytes that the compiled estimator holds at most besides its arguments, from arrays or their shapes."""
    analysis = jax.jit(_calling(estimator)).lower(estimator, x, y).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _calling(estimator: Any) -> Callable[[Any, Any, Any], Any]:
    if isinstance(estimator, HSIC | CKA):
        return lambda estimator, x, y: estimator(x, y)
    return lambda estimator, x, y: estimator(x, y, jax.random.key(0))


if __name__ == "__main__":
    main(tyro.cli(Config))
