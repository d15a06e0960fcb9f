"""Made-up records of a finished run, of the form that the measurements give, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipjax import files
from ipjax.files import Record
from ipjax.report import Run

LAYERS = ("input", "maxpool", "layer1.0", "layer2.0", "layer3.0", "avgpool")
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
LN2 = float(np.log(2))


def information(
    variable: str, value: float, *, width: float = 0.05, null: float | None = 0.1, ceiling: float = 2.3, saturated: bool = False
) -> Record:
    """An estimate with an interval of half `width`, whose halves spread so that differences of two have the interval 0 ± 0."""
    halves = tuple(value - 0.1 + step for step in np.linspace(-width / 3, width / 3, 10))
    return {
        f"{variable}_information": value,
        f"{variable}_lower": value - 1,
        f"{variable}_upper": value + 1,
        f"{variable}_ceiling": ceiling,
        f"{variable}_saturated": saturated,
        f"{variable}_null": null,
        f"{variable}_null_upper": None if null is None else null + 0.02,
        f"{variable}_interval_lower": value - width,
        f"{variable}_interval_upper": value + width,
        f"{variable}_subsamples": halves,
        f"{variable}_warnings": None,
    }


def layer(representation: str, name: str, depth: int, label: float, given: float, **values: Any) -> Record:
    """A record of a plane by KDE, with an ITE."""
    record = {"representation": representation, "layer": name, "depth": depth, "num_samples": 200}
    record |= {"input_estimator": "KDE(noise=0.1)", "label_estimator": "KDE(noise=0.1)"}
    record |= information("label", label) | information("input", given, null=None, ceiling=5.3)
    ratio = label / given
    record |= {
        "ite": ratio,
        "ite_lower": ratio - 0.02,
        "ite_upper": ratio + 0.02,
        "ite_withheld": None,
        "completeness_gap": None,
    }
    return record | values


def plane(layers: Sequence[str] = LAYERS) -> tuple[Record, ...]:
    """Rising label information, a falling nuisance, a leak, a saturated layer whose ITE is withheld, a probe."""
    records = []
    for shift, key in enumerate(("activation", "contrast", "predicted")):
        for depth, name in enumerate(layers):
            share = depth / (len(layers) - 1)
            values: Record = information("position", 0.9 - 0.6 * share, null=0.2, ceiling=2.0)
            if key == "predicted":
                values |= {
                    "leak": 0.3 - 0.2 * share,
                    "leak_lower": 0.25 - 0.2 * share,
                    "leak_upper": 0.35 - 0.2 * share,
                    "leak_null": -0.1,
                }
            if key == "contrast" and depth == 1:
                values |= {"input_saturated": True, "ite": None, "ite_lower": None, "ite_upper": None}
                values["ite_withheld"] = "input information saturated"
            if key != "activation":
                values["completeness_gap"] = 0.01
            records.append(layer(key, name, depth, 0.4 + 1.4 * share + 0.1 * shift, 4.4 - 1.2 * share, **values))
            probe = {"representation": key, "layer": name, "depth": depth, "num_samples": 200, "input_estimator": None}
            probe |= {"label_estimator": "Probe(num_folds=5)", "label_information": 0.3 + 1.6 * share}
            if key == "predicted":
                probe["leak"] = 0.5 - 0.4 * share
            records.append(probe)
    return tuple(records)


def profile(layers: Sequence[str] = LAYERS) -> tuple[Record, ...]:
    return tuple(
        {
            "representation": record["representation"],
            "layer": record["layer"],
            "depth": record["depth"],
            "noise": noise,
            "input_information": min(5.3, record["input_information"] / (10 * noise) ** 0.4),
            "label_information": min(2.3, record["label_information"] / (10 * noise) ** 0.3),
            "input_saturated": noise < 0.02,
        }
        for record in plane(layers)
        if record["input_estimator"]
        for noise in NOISES
    )


def channels(layers: Sequence[str] = LAYERS) -> tuple[Record, ...]:
    values = {"label_null": 0.0, "label_null_upper": 0.15, "num_channels": 4, "num_samples": 200}
    return tuple(
        {
            "representation": key,
            "layer": name,
            "depth": depth,
            "channel": 3 - i,
            "rank": i + 1,
            "label_information": 0.5 / (i + 1),
        }
        | values
        for key in ("activation", "contrast")
        for depth, name in enumerate(layers)
        for i in range(4)
    )


def ablation(layers: Sequence[str] = LAYERS[2:5]) -> tuple[Record, ...]:
    intact = {"num_samples": 200, "intact_accuracy": 0.97, "intact_cross_entropy": 0.1}
    records = []
    for depth, name in enumerate(layers):
        loss = 0.02 + 0.5 * depth / max(len(layers) - 1, 1)
        ends = {"loss_lower": loss - 0.04, "loss_upper": loss + 0.04, "accuracy_drop": loss / 5}
        ends |= {"accuracy_drop_lower": loss / 5 - 0.01, "accuracy_drop_upper": loss / 5 + 0.01}
        records.append(
            {"kind": "block", "layer": name, "depth": depth, "loss": loss, "accuracy": 0.97 - loss / 5, **ends, **intact}
        )
        rankings = {"conductance": 2.0, "activation": 1.4, "gradient_x_activation": 1.7, "information": 1.6, "random": 1.0}
        for ranking, strength in rankings.items():
            for repeat in range(3 if ranking == "random" else 1):
                for curve in ("deletion", "insertion"):
                    for share in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0):
                        reached = share ** (1 / strength) if curve == "deletion" else (1 - share) ** strength
                        value = 2.0 * reached + 0.05 * (repeat - 1) * (ranking == "random")
                        records.append(
                            {
                                "kind": "channels",
                                "layer": name,
                                "depth": depth,
                                "ranking": ranking,
                                "curve": curve,
                                "repeat": repeat,
                            }
                            | {
                                "share": share,
                                "num_channels": round(64 * share),
                                "loss": value,
                                "accuracy": max(0.1, 0.97 - 0.4 * value),
                            }
                            | {"loss_lower": value - 0.05, "loss_upper": value + 0.05}
                            | intact
                        )
    return tuple(records)


def areas(layers: Sequence[str] = LAYERS[2:5]) -> tuple[Record, ...]:
    records = []
    for depth, name in enumerate(layers):
        for curve in ("deletion", "insertion"):
            for ranking, area in (("conductance", 1.4), ("activation", 1.1), ("random", 1.0)):
                record = {"layer": name, "depth": depth, "curve": curve, "ranking": ranking, "accuracy_area": 0.9 - 0.3 * area}
                record["cross_entropy_area"] = area
                if ranking == "random":
                    record |= {"cross_entropy_area_lower": 0.9, "cross_entropy_area_upper": 1.2}
                    record |= {"accuracy_area_lower": 0.5, "accuracy_area_upper": 0.7}
                records.append(record)
    return tuple(records)


def ranking(
    score: str, correlation: float, partial: float | None, *, representation: str | None = None, trivial: bool = False
) -> Record:
    record = {"loss": "block", "score": score, "representation": representation, "trivial": trivial, "num_layers": 16}
    record |= {
        "correlation": correlation,
        "correlation_lower": correlation - 0.2,
        "correlation_upper": min(1.0, correlation + 0.1),
    }
    ends = (
        {"partial_lower": None, "partial_upper": None}
        if partial is None
        else {"partial_lower": partial - 0.5, "partial_upper": partial + 0.5}
    )
    return record | {
        "partial": partial,
        **ends,
        "verdict": "undecided",
        "sentence": f"{score} is not shown to predict more than depth does.",
    }


def rankings() -> tuple[Record, ...]:
    return (
        ranking("ite", 0.85, 0.05, representation="contrast"),
        ranking("ite", -0.14, -0.1, representation="predicted"),
        ranking("label_gain", 0.4, 0.2, representation="activation"),
        ranking("layer_conductance", 0.6, 0.1),
        ranking("depth", 0.9, None, trivial=True),
        ranking("num_channels", 0.88, 0.0, trivial=True),
        ranking("activation_norm", 0.3, -0.2, trivial=True),
    )


def check(
    claim: str, verdict: str, *, representation: str = "activation", estimator: str = "KDE(noise=0.1)", variable: str = "label"
) -> Record:
    return {
        "claim": claim,
        "variable": variable,
        "representation": representation,
        "estimator": estimator,
        "verdict": verdict,
        "value": 0.1,
        "lower": 0.0,
        "upper": 0.2,
        "sentence": f"By {estimator.split('(')[0]}, the change is 0.14 bits [0.00, 0.29].",
    }


def theory() -> tuple[Record, ...]:
    return (
        check("data_processing", "violated"),
        check("data_processing", "holds", estimator="Probe(num_folds=5)"),
        check("compression", "undecided", variable="input"),
        check("sufficiency", "withheld", representation="contrast"),
        check("invariance", "holds", variable="position"),
    )


CONFIG = {
    "network": "resnet50",
    "weights": "digits",
    "data": "digits",
    "noise": 0.1,
    "readout": "sketch",
    "num_images": 200,
    "seed": 0,
}
ENVIRONMENT = {"python": "3.11", "versions": {"ipjax": "0.1.0"}, "devices": ["cpu:0"], "accuracy": 0.97, "unreadable": []}


def run(name: str = "example", **values: Any) -> Run:
    """A run of which everything was measured."""
    given = {
        "plane": plane(),
        "profile": profile(),
        "channels": channels(),
        "ablation": ablation(),
        "areas": areas(),
        "rankings": rankings(),
        "theory": theory(),
        "config": CONFIG,
        "environment": ENVIRONMENT,
    }
    return Run(name, **(given | values))


def write(folder: Path, **values: Any) -> Path:
    """A run's folder as a finished run leaves it, with a picture."""
    folder.mkdir(parents=True)
    written = run(**values)
    for key, name in (
        ("plane", "plane.npz"),
        ("profile", "noise_profile.npz"),
        ("channels", "channels.npz"),
        ("ablation", "ablation.npz"),
        ("areas", "ablation_areas.npz"),
        ("rankings", "rankings.npz"),
        ("theory", "theory.npz"),
    ):
        if getattr(written, key):
            files.save(getattr(written, key), folder / name)
    (folder / "config.json").write_text(json.dumps(dict(written.config)))
    (folder / "environment.json").write_text(json.dumps(dict(written.environment)))
    Image.new("RGB", (300, 80), "teal").save(folder / "attribution.png")
    return folder
