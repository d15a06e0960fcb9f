"""Information planes through training: do layers compress, by which estimator, and does conductance?

    python -m experiments.training_ip
    python -m experiments.training_ip --networks tanh relu --num-seeds 3 --epochs 300

Perceptrons with tanh and with ReLU on scikit-learn's digits, after Shwartz-Ziv and Tishby 2017 and Saxe et al. 2018, and a
narrow ResNet-18 on digits in clutter. See docs/training.md.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from experiments.console import console, errors_shown, progress, say
from experiments.run_folder import environment, plain, prepare, write_json
from experiments.training import EPOCH_IMAGES, Task, checkpoints, log_spaced, perceptrons, resnets, train
from experiments.training_planes import features_of, measure
from ipjax import files
from ipjax.files import Record
from ipjax.store import explained
from ipjax.trajectories import compression

LEAST = 50  # images
BOUNDS = {"tanh": (-1.0, 1.0)}  # of activations, where they have some


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    networks: tuple[Literal["tanh", "relu", "resnet"], ...] = ("tanh", "relu", "resnet")
    """perceptrons with tanh and ReLU on plain digits; a ResNet-18 on digits in clutter"""
    num_seeds: int = 5
    """perceptrons of each kind; they train together"""
    resnet_seeds: int = 3
    """ResNets; each trains alone"""
    epochs: int = 1500
    """of the perceptrons, of 896 digits each"""
    resnet_epochs: int = 40
    """of the ResNets, of 896 digits each, placed anew"""
    num_checkpoints: int = 24
    """of the perceptrons, at epoch 0, 1 and on evenly in the epoch's logarithm; ResNets have half as many"""
    widths: tuple[int, ...] = (12, 10, 8, 6, 4)
    """units of the perceptrons' hidden layers"""
    resnet_width: int = 8
    """channels of the ResNet's stem (64 in the paper)"""
    learning_rate: float = 2e-3
    """of Adam, constant for the perceptrons; twice that is the peak of the ResNets' one-cycle schedule"""
    num_images: int = 500
    """digits, of the half that is not trained on, that the planes are measured on"""
    num_steps: int = 8
    """steps of the path integral from the baseline (blank paper; for the ResNet a zero image) to the image"""
    noise: float = 0.1
    """of the KDE estimator: noise variance over the layer's median squared pairwise distance"""
    seed: int = 0
    """of the first network, the next ones count on; of the contrast direction and the sketch"""
    out: Path | None = None
    """folder of the results, and of what an interrupted run goes on from; default: runs/training_ip-<time>"""


def main(config: Config) -> Path:
    """Trains, measures and draws; returns the folder of the results."""
    start = time.monotonic()
    check(config)
    out = config.out or Path("runs") / f"training_ip-{time.strftime('%Y%m%d-%H%M%S')}"
    prepare(out, {key: value for key, value in plain(asdict(config)).items() if key != "out"})
    say(f"results go to {out}")
    with explained(f"could not write to {out}"):
        write_json(out / "environment.json", environment("optax", "orbax-checkpoint"))
    records: list[Record] = []
    with jax.default_matmul_precision("highest"):
        for network in config.networks:
            records += _trained_and_measured(_task(network, config), config, out)
    found = compression(records)
    with explained(f"could not write the results to {out}"):
        _write(out, records, found)
    _print_summary(records, found)
    say(f"done in {time.monotonic() - start:.0f} s; results in")
    print(out)
    return out


def check(config: Config) -> None:
    """Raises `ValueError` for settings that make no sense, before any work."""
    for name in ("num_seeds", "resnet_seeds", "epochs", "resnet_epochs", "resnet_width", "num_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")
    if not config.networks or len(set(config.networks)) < len(config.networks):
        raise ValueError(f"networks: expected one or more of tanh, relu and resnet, each once, got {config.networks}")
    if config.num_checkpoints < 6:
        raise ValueError(f"num_checkpoints: expected at least 6, got {config.num_checkpoints}")
    if not config.widths or min(config.widths) < 1:
        raise ValueError(f"widths: expected at least one hidden layer, of at least 1 unit each, got {config.widths}")
    if not LEAST <= config.num_images <= EPOCH_IMAGES:
        raise ValueError(f"num_images: expected from {LEAST} to {EPOCH_IMAGES}, got {config.num_images}")
    for name in ("learning_rate", "noise"):
        if not 0 < getattr(config, name) < np.inf:
            raise ValueError(f"{name}: expected a number above 0, got {getattr(config, name)}")
    if not 0 <= config.seed < 2**16:
        raise ValueError(f"seed: expected an integer from 0 to 2¹⁶ - 1, got {config.seed}")


def _task(network: str, config: Config) -> Task:
    if network == "resnet":
        seeds = tuple(range(config.seed, config.seed + config.resnet_seeds))
        rate = 2 * config.learning_rate
        return resnets(network, config.resnet_width, learning_rate=rate, epochs=config.resnet_epochs, seeds=seeds)
    seeds = tuple(range(config.seed, config.seed + config.num_seeds))
    activation = {"tanh": jax.numpy.tanh, "relu": jax.nn.relu}[network]
    return perceptrons(
        network, activation, config.widths, learning_rate=config.learning_rate, epochs=config.epochs, seeds=seeds
    )


def _trained_and_measured(task: Task, config: Config, out: Path) -> list[Record]:
    schedule = log_spaced(task.epochs, config.num_checkpoints // (1 if task.together else 2))
    with checkpoints(out / "checkpoints" / task.network) as saved:
        with progress(f"train {task.network}", task.epochs) as advance:
            train(task, schedule, saved, advance)
        with progress("features", len(schedule)) as advance:
            sizes: dict[str, Any] = {"num_images": config.num_images, "num_steps": config.num_steps, "seed": config.seed}
            features = features_of(task, saved, schedule, **sizes, advance=advance)
    with progress("measure", len(schedule)) as advance:
        return measure(task, features, noise=config.noise, bounds=BOUNDS.get(task.network), advance=advance)


def _write(out: Path, records: list[Record], found: tuple[Record, ...]) -> None:
    from ipjax.plotting import training
    from ipjax.plotting.style import save

    for name, rows in (("training", records), ("compression", found)):
        files.save(rows, out / f"{name}.npz")
        files.to_csv(rows, out / f"{name}.csv")
    with console.status("drawing"):
        for name, figure in training.figures(records).items():
            save(figure, out / name)


def _print_summary(records: list[Record], found: tuple[Record, ...]) -> None:
    for network in dict.fromkeys(record["network"] for record in records):
        of_network = [record for record in records if record["network"] == network]
        end, deepest = (max(record[key] for record in of_network) for key in ("epoch", "depth"))
        accuracy = {record["seed"]: record["test_accuracy"] for record in of_network if record["epoch"] == end}.values()
        print(f"{network}: test accuracy {min(accuracy):.0%} to {max(accuracy):.0%} over {len(accuracy)} seeds")
        for record in found:
            if record["network"] == network and record["depth"] == deepest:
                print(f"  {record['sentence']}")


if __name__ == "__main__":
    with errors_shown(stopped="the same command with the same --out goes on from the last checkpoint"):
        main(tyro.cli(Config, description=__doc__))
