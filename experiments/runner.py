"""What the image experiments share: settings, measurements of every layer and channel, figures, files."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import tyro
from threadpoolctl import threadpool_limits

import ipjax
import ports
from experiments.console import console, print_summary, progress, say, warn
from experiments.features import TARGETS, Extraction, Features, Layers, open_features
from experiments.selection import Selection, preprocessing_of, select
from ipjax import runtime
from ipjax.assessment import few_per_class
from ipjax.data import digits
from ipjax.data.pipeline import batches
from ipjax.efficiency import Efficiency
from ipjax.estimators import KDE, Probe
from ipjax.store import Store, shards

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
TOP_CHANNELS = 10  # of a layer, listed in channels.csv
UNREADABLE = 0.01  # share of the images that may be left out
HOW = ("out", "data_dir", "batch_size", "num_workers", "compiled", "distributed", "coordinator", "num_processes", "process_id")
"""Settings of how and where a run computes; all others decide about its numbers."""


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    network: str = "resnet50"
    """architecture: resnet18, 34, 50, 101, 152; vgg11, 13, 16, 19 and these with _bn"""
    weights: str = "digits"
    """digits (the checkpoint that ships with the project), random, a name that python -m ports list shows, or a file"""
    data: str = "digits"
    """digits (scikit-learn's, placed in clutter, from the half that the checkpoint never saw); imagenet2012, imagenet_v2 or
    imagenette, once prepared by python -m experiments.prepare_data; or a folder: one of images a class, or images and a table
    of their labels"""
    data_dir: Path | None = None
    """where the prepared data sets are; default: ~/tensorflow_datasets"""
    num_images: int | None = None
    """images to analyse, of each class its share; default: all, but at most 10,000. Of more than 899 digits some occur twice,
    drawn in another place"""
    min_per_class: int = 1
    """images that every class has at least, or all of its own"""
    clutter: float = 1.0
    """of the digits, from 0 (plain, centred) to 1"""
    resize: int | None = None
    """pixels of the short side of an image file before the crop; default: as the weights were evaluated"""
    crop: int | None = None
    """side of the central square of an image file; default: as the weights were evaluated"""
    num_steps: int = 32
    """steps of the path integral from the baseline (a zero image) to the image"""
    layers: tuple[str, ...] | None = None
    """layers by name, or all; default: input, stem, every block, pooled features"""
    readout: Literal["sketch", "channel"] = "sketch"
    """features of a layer: a count sketch of all its units in 512 numbers, which keeps where things are, or one a channel"""
    noise: float = 0.1
    """of the KDE estimator: noise variance over the layer's median squared pairwise distance"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the network's parameters and activations; sums over the path and all that follows are float32"""
    precision: Literal["highest", "high", "default"] = "highest"
    """of the network's matrix products in float32: accelerators use fewer bits by default; estimators use highest"""
    shard_size: int = 64
    """images whose features are written to out/features together: what a killed run loses at most"""
    seed: int = 0
    """of the images, the sketch, the contrast direction, shuffles and subsamples, and of random weights"""
    out: Path | None = None
    """folder of the results, and of what an interrupted run goes on from; default: runs/<experiment>-<time>"""
    batch_size: int | None = None
    """images evaluated together on a host; default: by the devices' memory"""
    num_workers: int = 0
    """processes that decode image files; 0: threads of this one"""
    compiled: Path | None = Path(platformdirs.user_cache_dir("ipjax")) / "compiled"
    """folder that keeps compiled code for later runs, or None"""
    distributed: bool = False
    """several hosts, on each of which the same command runs"""
    coordinator: str | None = None
    """address:port of the first of several hosts; found by itself on Cloud TPU, Slurm, Open MPI and Kubernetes, as are:"""
    num_processes: int | None = None
    """how many hosts there are"""
    process_id: int | None = None
    """which one this is, from 0"""


def command_line(main: Callable[[Config], Path], default: Config = Config()) -> None:
    """Runs `main` with settings from the command line; an error that the user can mend is printed without a traceback."""
    config = tyro.cli(Config, default=default, description=sys.modules["__main__"].__doc__)
    try:
        main(config)
    except KeyboardInterrupt:
        console.print("stopped; the same command with the same --out goes on from here")
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
    if config.distributed:
        runtime.initialize(config.coordinator, config.num_processes, config.process_id)
    if config.compiled is not None:
        runtime.keep_compiled(config.compiled)
    net = _in_precision(ports.load(config.network, config.weights, seed=config.seed), config.dtype)
    data = select(
        config.data,
        preprocessing_of(config.network, config.weights, config.resize, config.crop),
        data_dir=config.data_dir,
        num_images=config.num_images,
        min_per_class=config.min_per_class,
        clutter=config.clutter,
        seed=config.seed,
    )
    example = np.zeros((1, *data.images.shape), np.float32)
    names = net.layers(example, "all" if config.layers == ("all",) else config.layers)
    num_classes = net.logits_shape(example).shape[1]
    if num_classes != data.images.num_classes:
        warn(f"the network tells {num_classes} classes apart, the data has {data.images.num_classes}: no accuracy is given")
    out = _prepare(config.out or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}", config)
    if config.data == "digits" and (repeated := len(data.index) - digits.NUM_TEST) > 0:
        warn(f"{repeated} images repeat a digit of another one, so halves, folds and neighbours are not independent")
    if few := few_per_class(data.labels):
        warn(f"{len(few)} classes have fewer than 20 images, too few for class-conditional estimates: {_some(few)}")

    with jax.default_matmul_precision(config.precision):
        features, found = _extract(net, names, data, out / "features", config)
    labels = data.labels[features.positions]
    accuracy = float(np.mean(features.predicted == labels)) if num_classes == data.images.num_classes else None
    if runtime.is_main():
        _write_json(out / "environment.json", _environment(config) | {"accuracy": accuracy} | found)
    nuisances = {name: values[features.positions] for name, values in data.nuisances.items()}
    # The threads of the probe's LAPACK wait for each other longer than they work, up to 30 times where cores are shared.
    with jax.default_matmul_precision("highest"), threadpool_limits(1, user_api="blas"):
        plane, profile = _measure_layers(features, labels, nuisances, config)
        channels = _measure_channels(features, labels, config)
    plane = _with_leakage(_with_efficiency(plane, features.completeness_gap))
    if runtime.is_main():
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
    for name in ("num_images", "num_steps", "batch_size", "shard_size", "resize", "crop", "num_processes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    for name in ("min_per_class", "num_workers", "process_id"):
        value = getattr(config, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}: expected at least 0, got {value}")
    if config.num_images is not None and config.num_images < 50:
        raise ValueError(
            f"num_images: expected at least 50, five a class, for class-conditional estimates; got {config.num_images}"
        )
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected an integer from 0 to 2³² - 1, got {config.seed}")
    if not 0 < config.noise < np.inf:
        raise ValueError(f"noise: expected a number above 0, got {config.noise}")
    if config.distributed and config.out is None:
        raise ValueError("out: expected a folder with --distributed, of one name on every host, from which a restart goes on")
    if not config.distributed and (config.coordinator, config.num_processes, config.process_id) != (None, None, None):
        raise ValueError("coordinator, num_processes, process_id: expected only with --distributed")


def _in_precision(net: ipjax.Network, dtype: str) -> ipjax.Network:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, net)


def _over_all_devices() -> Any:
    """Estimators spread their pairwise matrices over the devices of all hosts, if there are several."""
    return jax.set_mesh(runtime.mesh()) if jax.device_count() > 1 else nullcontext()


def _prepare(out: Path, config: Config) -> Path:
    """The main process makes the folder while the others, which may write to it too, wait; all refuse what it refuses."""
    error = None
    if runtime.is_main():
        try:
            _make(out, config)
        except (ValueError, OSError) as caught:
            error = caught
    refused = _gather_texts([] if error is None else [str(error)])
    if refused:
        raise error or ValueError(refused[0])
    return out


def _make(out: Path, config: Config) -> None:
    """Makes the folder, or finds it holding a run of the same settings, and writes the settings."""
    settings = {key: value for key, value in _plain(asdict(config)).items() if key not in HOW}
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
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"out: could not make {out}: {error.strerror}; choose another folder") from error
    _write_json(out / "config.json", settings)


def _extract(
    net: ipjax.Network, names: tuple[str, ...], data: Selection, folder: Path, config: Config
) -> tuple[Features, dict[str, Any]]:
    """The features, computed as far as they are not in the folder yet; and what there is to report of the computation."""
    store = Store(folder, _settings(net, names, data, config))
    every = shards(len(data.index), config.shard_size)
    if len(every) < jax.process_count():
        raise ValueError(
            f"shard_size: expected at least one shard for each of {jax.process_count()} hosts, got {len(every)} of "
            f"{config.shard_size} images; use smaller shards"
        )
    own = every[jax.process_index() :: jax.process_count()]
    missing, damaged = store.check(own)
    for shard in damaged:
        warn(f"{folder / shard.file} was damaged and is computed again")
    if len(missing) < len(own):
        say(f"{len(own) - len(missing)} of {len(own)} shards are there already")
    unreadable = store.notes([shard for shard in own if shard not in missing])
    images_at_once, nodes_at_once = runtime.block(net, data.images.shape, len(TARGETS), config.num_steps + 1)
    devices = jax.local_device_count()
    most = -(-min(config.shard_size, len(data.index)) // devices)
    images_at_once = min(most, images_at_once if config.batch_size is None else -(-config.batch_size // devices))
    extraction = Extraction(net, names, config.readout, config.num_steps, config.seed, images_at_once, nodes_at_once)
    index = np.full((len(missing), config.shard_size), -1)
    for row, shard in zip(index, missing, strict=True):
        row[: shard.stop - shard.start] = data.index[shard.start : shard.stop]
    began, waited = time.monotonic(), 0.0
    images = batches(data.images, index.ravel(), config.shard_size, num_workers=config.num_workers)
    with closing(images), progress("images", sum(shard.stop - shard.start for shard in own)) as advance:
        advance(sum(shard.stop - shard.start for shard in own if shard not in missing))
        for shard in missing:
            asked = time.monotonic()
            batch = next(images)
            waited += time.monotonic() - asked
            for reason in batch.unreadable.values():
                warn(f"left out: {reason}")
            unreadable |= (notes := {str(i): reason for i, reason in batch.unreadable.items()})
            if len(unreadable) > UNREADABLE * len(data.index):
                raise ValueError(
                    f"data: {len(unreadable)} images cannot be read, more than {UNREADABLE:.0%} of {len(data.index)}: "
                    f"{'; '.join(unreadable.values())}; replace or remove them"
                )
            count = shard.stop - shard.start
            store.write(shard, extraction(batch.images[:count], batch.mask[:count], shard.start, advance), notes)
    spent = time.monotonic() - began
    report = {
        "images_at_once": extraction.images_at_once * devices,
        "nodes_at_once": nodes_at_once,
        "input_wait": waited / spent if missing else None,
        "unreadable": sorted(_gather_texts(unreadable.values())),
    }
    if missing:
        say(f"waited for images {waited / spent:.1%} of {spent:.0f} s")
    return open_features(store, own, names), report


def _gather_texts(texts: Iterable[str]) -> list[str]:
    """Those of all processes."""
    encoded = "".join(text.replace("\n", " ") + "\n" for text in texts).encode()
    return runtime.gather(np.frombuffer(encoded, np.uint8)).tobytes().decode().splitlines()


def _some(items: Iterable[Any]) -> str:
    shown = [str(item) for item in items]
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "")


def _settings(net: ipjax.Network, names: tuple[str, ...], data: Selection, config: Config) -> dict[str, Any]:
    """What the features depend on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(net.params):
        digest.update(np.asarray(leaf).tobytes())
    chosen = ("network", "readout", "num_steps", "dtype", "precision", "shard_size", "seed")
    settings = {"weights": digest.hexdigest(), "layers": names, "targets": TARGETS, "quadrature": "trapezoid", "baseline": 0.0}
    return settings | {name: getattr(config, name) for name in chosen} | data.settings | {"num_images": len(data.index)}


def _measure_layers(
    features: Features, labels: np.ndarray, nuisances: dict[str, np.ndarray], config: Config
) -> tuple[ipjax.InformationPlane, ipjax.InformationPlane]:
    """Records of every representation by KDE and by the probe; the noise profile.

    The conductance to a random class, which the leak is compared with, is asked about the label alone.
    """
    layers = {name: _without_constant(name, features.layers("features", name)) for name in ("activation", *TARGETS)}
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
            common["nuisances"] = None if compared else nuisances
            about_input = None if compared else kde
            with _over_all_devices():
                records += ipjax.measure_plane(
                    values, labels, input_information=about_input, label_information=kde, **common
                ).records
            records += ipjax.measure_plane(
                values,
                labels,
                input_information=None,
                label_information=Probe(),
                num_null=0,
                num_subsamples=0,
                **common,
            ).records
            if not compared:
                with _over_all_devices():
                    profile += ipjax.profile(
                        values, labels, kde, "noise", NOISES, representation=representation, track=track
                    ).records
    return ipjax.InformationPlane(tuple(records)), ipjax.InformationPlane(tuple(profile))


def _measure_channels(features: Features, labels: np.ndarray, config: Config) -> ipjax.InformationPlane:
    """Records of every channel of every representation but the random one."""
    representations = [name for name in ("activation", *TARGETS) if name != "random"]
    records = []
    with progress("channels", len(representations)) as advance:

        def track(passes: Sequence[int]) -> Iterable[int]:
            for one in passes:
                yield one
                advance(1 / len(passes))

        for name in representations:
            records += ipjax.measure_channels(
                features.layers("channels", name),
                labels,
                noise=config.noise,
                representation=name,
                seed=config.seed,
                track=track,
            ).records
    return ipjax.InformationPlane(tuple(records))


def _without_constant(representation: str, layers: Layers) -> Layers:
    varying = tuple(layer for layer, values in layers.items() if np.ptp(values, axis=0).any())
    for layer in layers.names:
        if layer not in varying:
            warn(f"{representation} of layer {layer} is the same for all images; left out")
    if not varying:
        raise ValueError(f"{representation}: no layer's features vary over the images; check the weights and the images")
    return replace(layers, names=varying)


def _with_efficiency(plane: ipjax.InformationPlane, gap: Callable[[str, str], float]) -> ipjax.InformationPlane:
    """The records with the ITE by both definitions, and the relative completeness gap of a conductance."""
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
        record["completeness_gap"] = gap(representation, record["layer"]) if representation in TARGETS else None
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
        "processes": jax.process_count(),
        "matmul_precision": {"network": config.precision, "estimators": "highest"},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None,
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(_plain(values), indent=2) + "\n")
    part.replace(path)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
