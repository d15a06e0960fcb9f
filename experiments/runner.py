"""What the image experiments share: features of every layer, planes, ITE, figures, files."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.table import Table
from rich.text import Text

import ipjax
import ports
from ipjax.data import digits
from ipjax.efficiency import Efficiency
from ipjax.estimators import KDE, Probe
from ipjax.information_plane import few_per_class
from ipjax.readout import CountSketch, Readout, channel_mean, channel_sum

console = Console(stderr=True)
BITS = 1 / np.log(2)
PRECISION = "highest"  # of matrix products; accelerators would use less
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)


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
    num_images: int = 1000
    """images to analyse"""
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
        _warn(f"the network tells {num_classes} classes apart, the data has {digits.NUM_CLASSES}: the accuracy means nothing")
    out = _prepare(config.out or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}", config)
    if few := few_per_class(data.labels):
        _warn(f"{len(few)} classes have fewer than 20 images, too few for class-conditional estimates: {few}")

    with jax.default_matmul_precision(PRECISION):
        representations, gaps, accuracy = _features(net, data, names, config)
        _write_json(out / "environment.json", _environment(config) | {"accuracy": accuracy})
        plane, profile = _measure(representations, data, config)
    plane = _with_efficiency(plane, gaps)
    plane.save(out / "plane.npz")
    plane.to_csv(out / "layers.csv")
    profile.save(out / "noise_profile.npz")
    with console.status("drawing"):
        for name, figure in plotting.figures(plane, profile).items():
            for ending in ("png", "svg"):
                figure.savefig(out / f"{name}.{ending}")
    _print_summary(plane, accuracy, out, time.monotonic() - start)
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


def _features(
    net: ipjax.Network, data: digits.Digits, names: tuple[str, ...], config: Config
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, float]], float]:
    """Features of each layer by representation, relative completeness gaps of the conductances, and the accuracy."""
    if config.readout == "sketch":
        of_activation = of_conductance = CountSketch(512, config.seed)
    else:
        of_activation, of_conductance = channel_mean, channel_sum
    quadrature = ipjax.quadrature.trapezoid(config.num_steps)
    num_classes = net.logits_shape(data.images[:1]).shape[1]
    contrast = ipjax.contrast_weights(num_classes, config.seed)
    batches: dict[str, list[dict[str, np.ndarray]]] = {"activation": [], "predicted": [], "contrast": []}
    gaps: dict[str, list[dict[str, tuple[np.ndarray, np.ndarray]]]] = {"predicted": [], "contrast": []}
    predicted = []

    @jax.jit
    def activations(net: ipjax.Network, x: Array) -> tuple[Array, dict[str, Array]]:
        logits, values = net.activations(x, names)
        return logits, {name: of_activation(value) for name, value in values.items()}

    with _progress("images", len(data.labels)) as advance:
        for start in range(0, len(data.labels), config.batch_size):
            x = jnp.asarray(data.images[start : start + config.batch_size])
            logits, values = activations(net, x)
            predicted.append(np.argmax(logits, axis=1))
            batches["activation"].append(jax.device_get(values))
            one_hot = jax.nn.one_hot(predicted[-1], num_classes)
            for name, target in (("predicted", one_hot), ("contrast", jnp.broadcast_to(contrast, one_hot.shape))):
                both = ipjax.layer_conductance(
                    net, x, layers=names, target=target, quadrature=quadrature, readout=_WithSum(of_conductance)
                )
                sums = {layer: value[:, -1:] for layer, value in both.items()}
                batches[name].append(jax.device_get({layer: value[:, :-1] for layer, value in both.items()}))
                gap = ipjax.completeness_gap(net, x, sums, target=target)
                gaps[name].append({layer: (np.asarray(gap[layer]), np.asarray(sums[layer])[:, 0]) for layer in names})
            advance(len(x))
    features = {
        representation: {layer: np.concatenate([batch[layer] for batch in parts]) for layer in names}
        for representation, parts in batches.items()
    }
    relative_gaps = {
        target: {
            layer: _relative_gap(*map(np.concatenate, zip(*(part[layer] for part in parts), strict=True))) for layer in names
        }
        for target, parts in gaps.items()
    }
    return features, relative_gaps, float(np.mean(np.concatenate(predicted) == data.labels))


def _relative_gap(gap: np.ndarray, total: np.ndarray) -> float:
    """Mean absolute gap over the mean absolute change of the target, which is the conductances' sum less the gap."""
    return float(np.mean(np.abs(gap)) / np.mean(np.abs(total - gap)))


@dataclass(frozen=True)
class _WithSum:
    """A readout's features and, last, the sum over all units, which the completeness gap needs."""

    readout: Readout

    def __call__(self, units: Array) -> Array:
        flat = units.reshape(len(units), -1)
        return jnp.concatenate([self.readout(units), flat @ jnp.ones((flat.shape[1], 1), units.dtype)], axis=1)


def _measure(
    features: dict[str, dict[str, np.ndarray]], data: digits.Digits, config: Config
) -> tuple[ipjax.InformationPlane, ipjax.InformationPlane]:
    """Records of every representation by KDE on both axes and by the probe; the noise profile."""
    features = {name: _without_constant(name, layers) for name, layers in features.items()}
    kde = KDE(config.noise)
    records, profile = [], []
    with _progress("layers", sum(map(len, features.values()))) as advance:

        def track(layers: Sequence[str]) -> Iterable[str]:
            for layer in layers:
                yield layer
                advance(1 / 3)

        common: dict[str, Any] = {"nuisances": data.nuisances, "seed": config.seed, "track": track}
        for name, layers in features.items():
            common["representation"] = name
            records += ipjax.measure_plane(layers, data.labels, input_information=kde, label_information=kde, **common).records
            records += ipjax.measure_plane(
                layers,
                data.labels,
                input_information=None,
                label_information=Probe(),
                num_null=0,
                num_subsamples=0,
                **common,
            ).records
            profile += ipjax.noise_profile(layers, data.labels, NOISES, representation=name, track=track).records
    return ipjax.InformationPlane(tuple(records)), ipjax.InformationPlane(tuple(profile))


def _without_constant(representation: str, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    varying = {layer: values for layer, values in features.items() if np.ptp(values, axis=0).any()}
    for layer in features.keys() - varying.keys():
        _warn(f"{representation} of layer {layer} is the same for all images; left out")
    if not varying:
        raise ValueError(f"{representation}: no layer's features vary over the images; check the weights and the images")
    return varying


def _with_efficiency(plane: ipjax.InformationPlane, gaps: dict[str, dict[str, float]]) -> ipjax.InformationPlane:
    """The records with the ITE by both definitions, and the relative completeness gap of a conductance."""
    efficiencies: dict[tuple[str, str], dict[str, Efficiency]] = {}
    for representation in dict.fromkeys(record["representation"] for record in plane.records):
        of_kde = ipjax.InformationPlane(
            tuple(r for r in plane.records if r["representation"] == representation and r["input_estimator"] is not None)
        )
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


def _print_summary(plane: ipjax.InformationPlane, accuracy: float, out: Path, seconds: float) -> None:
    rows = {(r["representation"], r["layer"]): r for r in plane.records if r["input_estimator"] is not None}
    title = "Bits. act: activation, con, pred: conductance to contrast, predicted class"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("\nlayer", no_wrap=True)
    columns = {
        "activation": ("act\nI(X;C)", "act\nI(C;Y)", "act\nI(C;P)"),
        "contrast": ("con\nI(X;C)", "con\nI(C;Y)", "con\nITE"),
        "predicted": ("pred\nI(C;Y)", "pred\nleak"),
    }
    for header in itertools.chain(*columns.values()):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in dict.fromkeys(layer for _, layer in rows):
        activation, contrast, predicted = (rows.get((name, layer), {}) for name in columns)
        cells = [_cell(activation, variable) for variable in ("input", "label", "position")]
        cells += [_cell(contrast, "input"), _cell(contrast, "label")]
        cells.append("-" if contrast.get("ite") is None else f"{contrast['ite']:.2f}")
        cells.append(_cell(predicted, "label"))
        leak = predicted["label_information"] - contrast["label_information"] if predicted and contrast else None
        cells.append("-" if leak is None else f"{leak * BITS:.2f}")
        table.add_row(layer, *cells)
    shown = Console()
    shown.print(table)
    shown.print("P: position  * input information saturated  ° not above the null", highlight=False)
    shown.print(f"accuracy {accuracy:.1%}; done in {seconds:.0f} s; results in", highlight=False)
    print(out)


def _cell(record: dict[str, Any], variable: str) -> str:
    value = record.get(f"{variable}_information")
    if value is None:
        return "-"
    null = record.get(f"{variable}_null_upper")
    mark = "*" if variable == "input" and record["input_saturated"] else "°" if null is not None and value <= null else ""
    return f"{value * BITS:.2f}{mark}"


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


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


@contextmanager
def _progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """Shows a bar with rate and remaining time; gives the function that advances it."""
    columns = (TextColumn("{task.description:>7}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda amount: progress.advance(task, amount)


def _warn(message: str) -> None:
    console.print("warning:", style="bold yellow", end=" ")
    console.print(message, markup=False, highlight=False)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(_plain(values), indent=2) + "\n")
    part.replace(path)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
