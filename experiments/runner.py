"""What the image experiments share: settings, measurements of every layer and channel, figures, files."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from threadpoolctl import threadpool_limits

import ipjax
import ports
from experiments.console import console, print_summary, progress, warn
from experiments.features import Features, features
from ipjax.assessment import few_per_class
from ipjax.data import digits
from ipjax.efficiency import Efficiency
from ipjax.estimators import KDE, Probe

PRECISION = "highest"  # of matrix products; accelerators would use less
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
TOP_CHANNELS = 10  # of a layer, listed in channels.csv


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    network: str = "resnet50"
    """architecture: resnet18, 34, 50, 101, 152; vgg11, 13, 16, 19 and these with _bn"""
    weights: str = "digits"
    """digits (the checkpoint that ships with the project), random, a name that python -m ports list shows, or a file"""
    data: str = "digits"
    """digits: scikit-learn's digits placed in clutter, from the half that the checkpoint never saw"""
    clutter: float = 1.0
    """of the digits, from 0 (plain, centred) to 1"""
    num_images: int = digits.NUM_TEST
    """images to analyse; of more than 899 digits some occur twice, drawn in another place"""
    num_steps: int = 32
    """steps of the path integral from the baseline (a zero image) to the image"""
    layers: tuple[str, ...] | None = None
    """layers by name, or all; default: input, stem, every block, pooled features"""
    readout: Literal["sketch", "channel"] = "sketch"
    """features of a layer: a count sketch of all its units in 512 numbers, which keeps where things are, or one a channel"""
    noise: float = 0.1
    """of the KDE estimator: noise variance over the layer's median squared pairwise distance"""
    batch_size: int = 32
    """images evaluated together"""
    seed: int = 0
    """of the images, the sketch, the contrast direction, shuffles and subsamples"""
    out: Path | None = None
    """folder of the results; default: runs/<experiment>-<time>"""


def command_line(main: Callable[[Config], Path], default: Config = Config()) -> None:
    """Runs `main` with settings from the command line; an error that the user can mend is printed without a traceback."""
    config = tyro.cli(Config, default=default, description=sys.modules["__main__"].__doc__)
    try:
        main(config)
    except KeyboardInterrupt:
        console.print("stopped; nothing of this run is complete")
        sys.exit(130)
    except (ValueError, KeyError, OSError) as error:
        console.print("error:", style="bold red", end=" ")
        console.print(error.args[0] if isinstance(error, KeyError) else str(error), markup=False, highlight=False)
        sys.exit(2)


def run(experiment: str, config: Config) -> Path:
    """Measures all layers of a network on a data set and writes the results; returns their folder."""
    from ipjax import plotting

    start = time.monotonic()
    _check(config)
    net = ports.load(config.network, config.weights)
    data = digits.digits_in_clutter("test", config.num_images, seed=config.seed, clutter=config.clutter)
    names = net.layers(data.images[:1], "all" if config.layers == ("all",) else config.layers)
    if (num_classes := net.logits_shape(data.images[:1]).shape[1]) != digits.NUM_CLASSES:
        warn(f"the network tells {num_classes} classes apart, the data has {digits.NUM_CLASSES}: the accuracy means nothing")
    out = _prepare(config.out or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}", config)
    if (repeated := config.num_images - digits.NUM_TEST) > 0:
        warn(f"{repeated} images repeat a digit of another one, so halves, folds and neighbours are not independent")
    if few := few_per_class(data.labels):
        warn(f"{len(few)} classes have fewer than 20 images, too few for class-conditional estimates: {few}")

    # The threads of the probe's LAPACK wait for each other longer than they work, up to 30 times where cores are shared.
    with jax.default_matmul_precision(PRECISION), threadpool_limits(1, user_api="blas"):
        measured = features(
            net,
            data.images,
            names,
            readout=config.readout,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        accuracy = float(np.mean(measured.predicted == data.labels))
        _write_json(out / "environment.json", _environment(config) | {"accuracy": accuracy})
        plane, profile = _measure_layers(measured, data, config)
        channels = _measure_channels(measured, data, config)
    plane = _with_leakage(_with_efficiency(plane, measured.completeness_gaps))
    plane.save(out / "plane.npz")
    plane.to_csv(out / "layers.csv")
    profile.save(out / "noise_profile.npz")
    channels.save(out / "channels.npz")
    top = tuple(record for record in channels.records if record["rank"] <= TOP_CHANNELS)
    ipjax.InformationPlane(top).to_csv(out / "channels.csv")
    with console.status("drawing"):
        for name, figure in plotting.figures(plane, profile, channels).items():
            for ending in ("png", "svg"):
                figure.savefig(out / f"{name}.{ending}")
    print_summary(plane, channels, accuracy, out, time.monotonic() - start)
    return out


def _check(config: Config) -> None:
    if config.data != "digits":
        raise ValueError(f'data: expected "digits", the only data set so far, got {config.data!r}')
    for name in ("num_images", "num_steps", "batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")
    if config.num_images < 50:
        raise ValueError(
            f"num_images: expected at least 50, five a class, for class-conditional estimates; got {config.num_images}"
        )
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected an integer from 0 to 2³² - 1, got {config.seed}")
    if not 0 < config.noise < np.inf:
        raise ValueError(f"noise: expected a number above 0, got {config.noise}")


def _prepare(out: Path, config: Config) -> Path:
    """Makes the folder, or finds it holding a run of the same settings, and writes the settings."""
    settings = {key: value for key, value in _plain(asdict(config)).items() if key != "out"}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            before = dict(json.loads((out / "config.json").read_text()))
        except (OSError, ValueError, TypeError):
            message = f"out: {out} exists and holds no run of this program, or one whose config.json is damaged"
            raise ValueError(message + "; choose another folder") from None
        differing = [k for k in settings.keys() | before.keys() if settings.get(k) != before.get(k)]
        if differing:
            changes = "; ".join(f"{k} was {before.get(k)!r}, is {settings.get(k)!r}" for k in sorted(differing))
            raise ValueError(f"out: {out} holds a run with other settings ({changes}); choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "config.json", settings)
    return out


def _measure_layers(
    measured: Features, data: digits.Digits, config: Config
) -> tuple[ipjax.InformationPlane, ipjax.InformationPlane]:
    """Records of every representation by KDE and by the probe; the noise profile.

    The conductance to a random class, which the leak is compared with, is asked about the label alone.
    """
    layers = {name: _without_constant(name, values) for name, values in measured.layers.items()}
    kde = KDE(config.noise)
    records, profile = [], []
    with progress("layers", sum(map(len, layers.values()))) as advance:

        def track(names: Sequence[str]) -> Iterable[str]:
            for name in names:
                yield name
                advance(1 / (2 if representation == "random" else 3))

        for representation, values in layers.items():
            compared = representation == "random"
            common: dict[str, Any] = {"representation": representation, "seed": config.seed, "track": track}
            common["nuisances"] = None if compared else data.nuisances
            about_input = None if compared else kde
            records += ipjax.measure_plane(
                values, data.labels, input_information=about_input, label_information=kde, **common
            ).records
            records += ipjax.measure_plane(
                values,
                data.labels,
                input_information=None,
                label_information=Probe(),
                num_null=0,
                num_subsamples=0,
                **common,
            ).records
            if not compared:
                profile += ipjax.profile(
                    values, data.labels, kde, "noise", NOISES, representation=representation, track=track
                ).records
    return ipjax.InformationPlane(tuple(records)), ipjax.InformationPlane(tuple(profile))


def _measure_channels(measured: Features, data: digits.Digits, config: Config) -> ipjax.InformationPlane:
    """Records of every channel of every representation but the random one."""
    representations = [name for name in measured.channels if name != "random"]
    records = []
    with progress("channels", len(representations)) as advance:

        def track(passes: Sequence[int]) -> Iterable[int]:
            for one in passes:
                yield one
                advance(1 / len(passes))

        for name in representations:
            records += ipjax.measure_channels(
                measured.channels[name],
                data.labels,
                noise=config.noise,
                representation=name,
                seed=config.seed,
                track=track,
            ).records
    return ipjax.InformationPlane(tuple(records))


def _without_constant(representation: str, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    varying = {layer: values for layer, values in features.items() if np.ptp(values, axis=0).any()}
    for layer in features.keys() - varying.keys():
        warn(f"{representation} of layer {layer} is the same for all images; left out")
    if not varying:
        raise ValueError(f"{representation}: no layer's features vary over the images; check the weights and the images")
    return varying


def _with_efficiency(plane: ipjax.InformationPlane, gaps: dict[str, dict[str, float]]) -> ipjax.InformationPlane:
    """The records with the ITE by both definitions, and the relative completeness gap of a conductance."""
    efficiencies: dict[tuple[str, str], dict[str, Efficiency]] = {}
    of_both_axes = [record for record in plane.records if record["input_estimator"] is not None]
    for representation in dict.fromkeys(record["representation"] for record in of_both_axes):
        of_kde = ipjax.InformationPlane(tuple(r for r in of_both_axes if r["representation"] == representation))
        for definition in ("ratio", "increment"):
            efficiencies[representation, definition] = ipjax.information_transformation_efficiency(of_kde, definition)
    records = []
    for record in plane.records:
        record = dict(record)
        if record["input_estimator"] is not None:
            for definition, prefix in (("ratio", "ite"), ("increment", "ite_increment")):
                ite = efficiencies[record["representation"], definition][record["layer"]]
                record |= {
                    prefix: ite.value,
                    f"{prefix}_lower": ite.lower,
                    f"{prefix}_upper": ite.upper,
                    f"{prefix}_withheld": ite.withheld,
                }
        record["completeness_gap"] = gaps.get(record["representation"], {}).get(record["layer"])
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


def _environment(config: Config) -> dict[str, Any]:
    weights = None if config.weights == "random" else ports.locate(config.network, config.weights)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("ipjax", "jax", "jaxlib", "flax", "numpy", "scikit-learn")},
        "devices": [str(device) for device in jax.devices()],
        "matmul_precision": PRECISION,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None,
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(_plain(values), indent=2) + "\n")
    part.replace(path)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
