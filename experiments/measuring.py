"""What a run measures of its features: planes of every representation, their noise profile, single channels.

Each measurement is kept on disk once it is there, so that a run that is started again goes on after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import ipjax
from experiments.config import Config
from experiments.console import progress, tracking, warn
from experiments.features import TARGETS, Features, Layers
from ipjax import files, runtime
from ipjax.efficiency import Efficiency
from ipjax.estimators import KDE, Probe, Renyi
from ipjax.files import Record
from ipjax.store import explained

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
REPRESENTATIONS = ("activation", *TARGETS)
Records = tuple[Record, ...]


@dataclass(frozen=True)
class Kept:
    """Records of finished measurements, a file each, in a folder that the first process writes.

    A file is of use again where `basis`, all that the measurements depend on, is the same.
    """

    folder: Path
    basis: Any

    def __call__(self, name: str, measure: Callable[[], Sequence[Record]]) -> Records:
        """The records of that name, measured where they are not there. Where they are, only the first process has them: the
        others need none."""
        digest = hashlib.sha256(json.dumps(self.basis, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.{digest}.npz"
        found = self._found(path)
        if runtime.gather_texts(["found"] if found is not None else []):
            return found or ()
        records = tuple(measure())
        if runtime.is_main():
            with explained(f"could not write to {self.folder}"):
                self.folder.mkdir(exist_ok=True)
                for former in self.folder.glob(f"{name}.*.npz"):
                    former.unlink()
                files.save(records, path)
        return records

    def _found(self, path: Path) -> Records | None:
        if not runtime.is_main() or not path.exists():
            return None
        try:
            return files.load(path)
        except ValueError:
            warn(f"{path} was damaged and is measured again")
            return None


def measure_layers(
    features: Features, labels: np.ndarray, nuisances: dict[str, np.ndarray], config: Config, kept: Kept
) -> tuple[ipjax.InformationPlane, ipjax.InformationPlane]:
    """Records of every representation by KDE and by the probe, with ITE, leak and completeness gap; the noise profile.

    The conductance to a random class, which the leak is compared with, is asked about the label alone.
    """
    records, profile = [], []
    with progress("layers", len(REPRESENTATIONS) * len(features.names)) as advance:
        for representation in REPRESENTATIONS:
            of_plane, of_profile = (0.6, 0.4) if representation != "random" else (1.0, 0.0)

            def planes(representation: str = representation, share: float = of_plane) -> list[Record]:
                track = tracking(advance, share / 2)
                return _planes(features, representation, labels, nuisances, config, track)

            def profiles(representation: str = representation, share: float = of_profile) -> Records:
                layers = _varying(features, representation)
                with runtime.over_all_devices():
                    return ipjax.profile(
                        layers,
                        labels,
                        KDE(config.noise),
                        "noise",
                        NOISES,
                        representation=representation,
                        track=tracking(advance, share),
                    ).records

            records += kept(f"plane-{representation}", planes)
            if of_profile:
                profile += kept(f"profile-{representation}", profiles)
    return _with_leakage(_with_efficiency(ipjax.InformationPlane(tuple(records)))), ipjax.InformationPlane(tuple(profile))


def measure_second(features: Features, labels: np.ndarray, config: Config, kept: Kept) -> ipjax.InformationPlane:
    """Both axes by an estimator of another family, so that a claim that depends on the estimator shows."""
    representations = [name for name in REPRESENTATIONS if name != "random"]
    records = []
    with progress("again by Rényi", len(representations) * len(features.names)) as advance:
        for name in representations:

            def second(name: str = name) -> Records:
                with runtime.over_all_devices():
                    return ipjax.measure_plane(
                        _varying(features, name),
                        labels,
                        input_information=Renyi(),
                        label_information=Renyi(),
                        num_null=0,
                        representation=name,
                        seed=config.seed,
                        track=tracking(advance, 1),
                    ).records

            records += kept(f"second-{name}", second)
    return ipjax.InformationPlane(tuple(records))


def measure_channels(features: Features, labels: np.ndarray, config: Config, kept: Kept) -> ipjax.InformationPlane:
    """Records of every channel of every representation but the random one."""
    representations = [name for name in REPRESENTATIONS if name != "random"]
    records = []
    with progress("channels", len(representations)) as advance:
        for name in representations:

            def channels(name: str = name) -> Records:
                return ipjax.measure_channels(
                    features.layers("channels", name),
                    labels,
                    noise=config.noise,
                    representation=name,
                    seed=config.seed,
                    track=lambda passes: tracking(advance, 1 / len(passes))(passes),
                ).records

            records += kept(f"channels-{name}", channels)
    return ipjax.InformationPlane(tuple(records))


def _planes(
    features: Features,
    representation: str,
    labels: np.ndarray,
    nuisances: dict[str, np.ndarray],
    config: Config,
    track: Callable[[Sequence[str]], Iterable[str]],
) -> list[Record]:
    layers, compared = _varying(features, representation), representation == "random"
    common: dict[str, Any] = {"representation": representation, "seed": config.seed, "track": track}
    common["nuisances"] = None if compared else nuisances
    kde = KDE(config.noise)
    with runtime.over_all_devices():
        about_input = None if compared else kde
        of_kde = ipjax.measure_plane(layers, labels, input_information=about_input, label_information=kde, **common)
    of_probe = ipjax.measure_plane(
        layers, labels, input_information=None, label_information=Probe(), num_null=0, num_subsamples=0, **common
    )
    gaps = {layer: features.completeness_gap(representation, layer) for layer in layers if representation in TARGETS}
    return [record | {"completeness_gap": gaps.get(record["layer"])} for record in (*of_kde.records, *of_probe.records)]


def _varying(features: Features, representation: str) -> Layers:
    """The layers whose features are not the same for all images."""
    layers = features.layers("features", representation)
    varying = tuple(layer for layer, values in layers.items() if np.ptp(values, axis=0).any())
    for layer in layers.names:
        if layer not in varying:
            warn(f"{representation} of layer {layer} is the same for all images; left out")
    if not varying:
        raise ValueError(f"{representation}: no layer's features vary over the images; check the weights and the images")
    return replace(layers, names=varying)


def _with_efficiency(plane: ipjax.InformationPlane) -> ipjax.InformationPlane:
    """The records with the ITE by both definitions."""
    efficiencies: dict[tuple[str, str], dict[str, Efficiency]] = {}
    of_both_axes = [record for record in plane.records if record["input_estimator"] is not None]
    for representation in dict.fromkeys(record["representation"] for record in of_both_axes):
        of_kde = ipjax.InformationPlane(tuple(r for r in of_both_axes if r["representation"] == representation))
        for definition in ("ratio", "increment"):
            efficiencies[representation, definition] = ipjax.information_transformation_efficiency(of_kde, definition)
    records = []
    for record in plane.records:
        record, representation = dict(record), record["representation"]
        if record["input_estimator"] is not None:
            for definition, prefix in (("ratio", "ite"), ("increment", "ite_increment")):
                ite = efficiencies[representation, definition][record["layer"]]
                record |= {
                    prefix: ite.value,
                    f"{prefix}_lower": ite.lower,
                    f"{prefix}_upper": ite.upper,
                    f"{prefix}_withheld": ite.withheld,
                }
        records.append(record)
    return ipjax.InformationPlane(tuple(records))


def _with_leakage(plane: ipjax.InformationPlane) -> ipjax.InformationPlane:
    """The records with what the target leaks, by each estimator, at the conductance to the predicted class."""
    estimators = dict.fromkeys(record["label_estimator"] for record in plane.records)
    leaks = {estimator: ipjax.target_leakage(plane.select(label_estimator=estimator)) for estimator in estimators}
    records = []
    for record in plane.records:
        leak = leaks[record["label_estimator"]].get(record["layer"]) if record["representation"] == "predicted" else None
        if leak is not None:
            found = {"leak": leak.value, "leak_lower": leak.lower, "leak_upper": leak.upper, "leak_null": leak.null}
            record = record | found
        records.append(record)
    return ipjax.InformationPlane(tuple(records))
