"""What the image experiments share: features of every layer, their measurements, figures, files."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from threadpoolctl import threadpool_limits

import ipjax
import ports
from experiments import report
from experiments.config import HOW, Config, check
from experiments.console import console, errors_shown, print_summary, progress, say, warn
from experiments.evidence import ablated, attribute_typical, measure_ablation, rank_layers
from experiments.features import RULE, SKETCH, TARGETS, Extraction, Features, open_features
from experiments.measuring import Kept, measure_channels, measure_layers, measure_second
from experiments.pilot import choose_steps
from experiments.results import Results, draw
from experiments.run_folder import environment, plain, prepare, write_json
from experiments.selection import Selection, preprocessing_of, select
from ipjax import runtime
from ipjax.assessment import few_per_class
from ipjax.data import digits
from ipjax.data.pipeline import batches
from ipjax.graph import dominators
from ipjax.store import Shard, Store, explained, shards

UNREADABLE = 0.01  # share of the images that may be left out


def command_line(main: Callable[[Config], Path], default: Config = Config()) -> None:  # noqa: B008 (frozen)
    """Runs `main` with settings from the command line; an error that the user can mend is printed without a traceback."""
    config = tyro.cli(Config, default=default, description=sys.modules["__main__"].__doc__)
    with errors_shown(stopped="the same command with the same --out goes on from here"):
        main(config)


def run(experiment: str, config: Config) -> Path:
    """Measures all layers of a network on a data set and writes the results; returns their folder."""
    start = time.monotonic()
    check(config)
    if config.tolerance is None:
        config = replace(config, num_steps=config.steps)
    if config.distributed:
        say("waiting for the other hosts, at most five minutes")
        runtime.initialize(config.coordinator, config.num_processes, config.process_id)
    if config.compiled is not None:
        runtime.keep_compiled(config.compiled)
    with runtime.together():
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
        settings = _settings(net, names, data, config)
        knocks_out = ablated(net, data, config)
    runtime.agree(json.dumps(plain(settings) | _compared(config)))
    out = config.out or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
    with runtime.together():
        if runtime.is_main():
            prepare(out, _compared(config))
            say(f"results go to {out}")
            _warn_of_limits(data, num_classes, config.shard_size)

    path = {}
    with jax.default_matmul_precision(config.precision):
        if config.tolerance is not None:
            pilot = Kept(out / "measured", [settings, _compared(config)])
            num_steps, path["path"] = choose_steps(net, names, data, config.tolerance, config, pilot)
            config, settings = replace(config, num_steps=num_steps), settings | {"num_steps": num_steps}
        features, found = _extract(net, names, data, Store(out / "features", settings), config)
    labels = data.labels[features.positions]
    accuracy = float(np.mean(features.predicted == labels)) if num_classes == data.images.num_classes else None
    with runtime.together():
        if runtime.is_main():
            found = _environment(config) | {"accuracy": accuracy} | path | found
            with explained(f"could not write to {out}"):
                write_json(out / "environment.json", found)
    nuisances = {name: values[features.positions] for name, values in data.nuisances.items()}
    kept = Kept(out / "measured", [settings, _compared(config), features.positions.tolist(), labels.tolist()])
    # The threads of the probe's LAPACK wait for each other longer than they work, up to 30 times where cores are shared.
    with jax.default_matmul_precision("highest"), threadpool_limits(1, user_api="blas"):
        plane, profile = measure_layers(features, labels, nuisances, config, kept)
        second = measure_second(features, labels, config, kept)
        channels = measure_channels(features, labels, config, kept)
    before = dominators(net, example, names)
    with jax.default_matmul_precision(config.precision):
        losses = measure_ablation(net, data, features, config, kept) if knocks_out else ()
        rankings = rank_layers(plane, features, losses, before) if knocks_out else ()
        attribution = attribute_typical(net, data, features, config)
    if runtime.is_main():
        with explained(f"could not write the results to {out}"):
            results = Results(plane, second, profile, channels, losses, rankings, before, attribution)
            with console.status("drawing"):
                results.write(out)
                draw(out)
                report.write(out)
        print_summary(plane, channels, accuracy, out, time.monotonic() - start)
    return out


def _warn_of_limits(data: Selection, num_classes: int, shard_size: int) -> None:
    """Says what makes the results of these images less than they could be."""
    if num_classes != data.images.num_classes:
        warn(f"the network tells {num_classes} classes apart, the data has {data.images.num_classes}: no accuracy is given")
    if isinstance(data.images, digits.Digits) and (repeated := len(data.index) - digits.NUM_TEST) > 0:
        warn(f"{repeated} images repeat a digit of another one, so halves, folds and neighbours are not independent")
    if shard_size < 16:
        warn(f"random classes are shuffled among the images of a shard, {shard_size}: too few to hide the predicted ones")
    if few := few_per_class(data.labels):
        shown = ", ".join(map(str, list(few)[:10])) + (", ..." if len(few) > 10 else "")
        warn(f"{len(few)} classes have fewer than 20 images, too few for class-conditional estimates: {shown}")


def _in_precision(net: ipjax.Network, dtype: str) -> ipjax.Network:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, net)


def _compared(config: Config) -> dict[str, Any]:
    """The settings that decide about the results."""
    return {key: value for key, value in plain(asdict(config)).items() if key not in HOW}


def _extract(
    net: ipjax.Network, names: tuple[str, ...], data: Selection, store: Store, config: Config
) -> tuple[Features, dict[str, Any]]:
    """The features, computed as far as they are not in the folder yet; and what there is to report of the computation."""
    every = shards(len(data.index), config.shard_size)
    if len(every) < jax.process_count():
        raise ValueError(
            f"shard_size: expected at least one shard for each of {jax.process_count()} hosts, got {len(every)} of "
            f"{config.shard_size} images; use smaller shards"
        )
    own = every[jax.process_index() :: jax.process_count()]
    devices = jax.local_device_count()
    at_once = max(map(len, own)) if config.batch_size is None else min(config.batch_size, max(map(len, own)))
    block = runtime.block(net, data.images.shape, len(TARGETS), config.steps + 1, -(-at_once // devices))
    extraction = Extraction(net, names, config.readout, config.steps, config.seed, *block)
    with runtime.together():
        waited = _fill(store, own, extraction, data, config.num_workers)
    unreadable = sorted(runtime.gather_texts(store.notes(own).values()))
    _check_unreadable(unreadable, len(data.index))
    report = {
        "images_at_once": extraction.images_at_once * devices,
        "nodes_at_once": extraction.nodes_at_once,
        "input_wait": waited,
        "unreadable": unreadable,
    }
    return open_features(store, own, names), report


def _fill(store: Store, own: Sequence[Shard], extraction: Extraction, data: Selection, num_workers: int) -> float | None:
    """Computes the shards that are not in the store; returns the share of the time in which the devices waited for images."""
    missing, damaged = store.check(own)
    for shard in damaged:
        warn(f"{store.folder / shard.file} was damaged and is computed again")
    # Images that could not be read may have been mended.
    there = [shard for shard in own if shard not in missing and not store.notes([shard])]
    missing = [shard for shard in own if shard not in there]
    if there:
        say(f"{len(there)} of {len(own)} shards are there already")
    if not missing:
        return None
    unreadable = []
    size = max(map(len, missing))  # only the last shard can be smaller
    index = np.concatenate([data.index[shard.start : shard.stop] for shard in missing])
    began, waited = time.monotonic(), 0.0
    images = batches(data.images, index, size, num_workers=num_workers)
    with closing(images), progress("images", sum(map(len, own))) as advance:
        advance(sum(map(len, there)))
        for shard in missing:
            asked = time.monotonic()
            batch = next(images)
            waited += time.monotonic() - asked
            for reason in batch.unreadable.values():
                warn(f"left out: {reason}")
            unreadable += batch.unreadable.values()
            _check_unreadable(unreadable, len(data.index))
            arrays = extraction(batch.images[: len(shard)], batch.mask[: len(shard)], shard.start, advance)
            store.write(shard, arrays, {str(i): reason for i, reason in batch.unreadable.items()})
    spent = time.monotonic() - began
    say(f"waited for images {waited / spent:.1%} of {spent:.0f} s")
    return waited / spent


def _check_unreadable(unreadable: Sequence[str], num_images: int) -> None:
    if len(unreadable) > UNREADABLE * num_images:
        raise ValueError(
            f"data: {len(unreadable)} images cannot be read, more than {UNREADABLE:.0%} of {num_images}: "
            f"{'; '.join(unreadable)}; replace them and start again, or remove them and choose another --out"
        )


def _settings(net: ipjax.Network, names: tuple[str, ...], data: Selection, config: Config) -> dict[str, Any]:
    """What the features depend on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(net.params):
        digest.update(np.asarray(leaf).tobytes())
    chosen = ("network", "readout", "num_steps", "dtype", "precision", "shard_size", "seed")
    settings = {
        "weights": digest.hexdigest(),
        "layers": names,
        "targets": TARGETS,
        "quadrature": RULE.__name__,
        "baseline": 0.0,
    }
    settings |= {"sketch": SKETCH, "versions": {name: version(name) for name in ("ipjax", "jax")}}
    return settings | {name: getattr(config, name) for name in chosen} | data.settings | {"num_images": len(data.index)}


def _environment(config: Config) -> dict[str, Any]:
    weights = None if config.weights == "random" else ports.locate(config.network, config.weights)
    return environment() | {
        "processes": jax.process_count(),
        "how": {key: value for key, value in plain(asdict(config)).items() if key in HOW},
        "matmul_precision": {"network": config.precision, "estimators": "highest"},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None,
    }
