"""What figures, sentences and the report call things alike: bits, representations, nuisances, estimators."""

from __future__ import annotations

import numpy as np

BITS = 1 / np.log(2)  # in a nat
TITLES = {
    "activation": "activation",
    "contrast": "conductance to a fixed contrast",
    "predicted": "conductance to the predicted class",
}


def nuisance(variable: str) -> str:
    """A nuisance's name where `contrast` would be taken for the target."""
    return "image contrast" if variable == "contrast" else variable


def family(text: str | None) -> str:
    """An estimator's name without its settings."""
    return (text or "").split("(")[0]
