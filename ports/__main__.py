"""Pretrained weights: what there is, what a file holds, into other names and formats, against the torch reference.

python -m ports list
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ports import catalog, hub, keys, loading, readers

TOLERANCE = 1e-4


def _positional(name: str) -> tuple[Any, ...]:
    return tyro.conf.Positional, tyro.conf.arg(metavar=name)


def list_weights() -> None:
    """Every set of weights that can be loaded by name."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("network", "weights", "from", "resize, crop", "top-1", "top-5"):
        table.add_column(column, no_wrap=True, justify="right" if column.startswith("top") else "left")
    networks = dict.fromkeys(entry.network for entry in catalog.CATALOG)
    for network in networks:
        for entry in (entry for entry in catalog.CATALOG if entry.network == network):
            sizes = f"{entry.preprocessing.resize}, {entry.preprocessing.crop}"
            accuracies = (f"{entry.top1:.2f}", f"{entry.top5:.2f}")
            table.add_row(network, entry.weights, _origin(entry), sizes, *accuracies)
        if network in loading.DIGITS:
            table.add_row(network, "digits", "this project", "-", "-", "-")
        table.add_section()
    shown = Console(width=max(100, Console().width))
    shown.print(table)
    shown.print(
        'Load one with ports.load("<network>", "<weights>"). Further weights: "random", the path of a .pth or .safetensors\n'
        f'file, "hf-hub:OWNER/REPOSITORY". Accuracies as published, in percent. Files are kept in {hub.cache_folder()}',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def inspect(file: Annotated[Path, *_positional("FILE")]) -> None:
    """What a weights file holds. Nothing in it is executed.

    Args:
        file: a state dict, .pth or .safetensors.
    """
    arrays = readers.read(file)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("key", "shape", "dtype"):
        table.add_column(column, no_wrap=True)
    for key, array in arrays.items():
        table.add_row(key, " x ".join(map(str, array.shape)) or "scalar", str(array.dtype))
    count = sum(array.size for array in arrays.values())
    network = keys.recognise(arrays)
    shown = Console(width=max(100, Console().width))
    shown.print(table)
    shown.print(f"{len(arrays)} arrays, {count:,} numbers, {file.stat().st_size:,} bytes", highlight=False)
    known = f"{network}, in the keys of {keys.naming_of(arrays)}" if network else "none that this project has"
    shown.print(f"network: {known}", highlight=False)


def convert(
    source: Annotated[Path, *_positional("SRC")],
    destination: Annotated[Path, *_positional("DST")],
    keys: keys.Naming = "flax",
    network: str | None = None,
) -> None:
    """Writes weights under other names, in the layouts that go with them, as float32.

    Args:
        source: a state dict, .pth or .safetensors, in any of the namings.
        destination: a file to make; .safetensors, or .pth where torch is installed.
        keys: the names to write: flax is this project's own, torchvision and timm lead back.
        network: the architecture; default: told by the keys of the source.
    """
    if destination.exists():
        raise ValueError(f"destination: {destination} exists; choose another name")
    if destination.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"destination: expected the ending .safetensors, .pth or .pt, got {destination.name!r}")
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"destination: expected a folder at {destination.parent}, found none")
    arrays = readers.read(source)
    name = network or _recognised(arrays, source)
    state = loading.export(loading.from_state_dict(name, arrays, where=str(source)), keys)
    _write(destination, state, {"network": name, "keys": keys})
    Console().print(f"{name}: {len(state)} arrays in the keys of {keys} written to {destination}", markup=False)


def verify(
    name: Annotated[str, *_positional("NAME")], weights: Annotated[str, *_positional("WEIGHTS")], size: int = 224
) -> None:
    """Compares every layer with torchvision's network of the same weights; needs torch and torchvision.

    Args:
        name: the architecture.
        weights: as for ports.load: a name of the list, a file, random.
        size: pixels a side of the image.
    """
    from ports.verify import layer_errors

    errors = layer_errors(name, loading.load(name, weights), size=size)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("relative error", justify="right")
    for layer, error in errors.items():
        table.add_row(layer, f"{error:.1e}{'' if error < TOLERANCE else '  too large'}")
    shown = Console()
    shown.print(table)
    wrong = [layer for layer, error in errors.items() if not error < TOLERANCE]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(errors)} layers differ from torchvision's by more than {TOLERANCE}: {wrong[0]} first"
        )
    shown.print(
        f"all {len(errors)} layers within {TOLERANCE} of torchvision's; largest {max(errors.values()):.1e}", highlight=False
    )


def _origin(entry: catalog.Entry) -> str:
    if isinstance(entry.location, catalog.Repository):
        return f"hub: {entry.location.name}"
    return entry.location.name + (" (cached)" if (hub.cache_folder() / entry.location.name).exists() else "")


def _recognised(arrays: dict[str, np.ndarray], source: Path) -> str:
    name = keys.recognise(arrays)
    if name is None:
        first = ", ".join(list(arrays)[:3]) or "none"
        raise ValueError(
            f"{source}: expected the keys of one of {', '.join(keys.ARCHITECTURES)}, got {len(arrays)} others, "
            f"first {first}; name the network with --network to see what differs"
        )
    return name


def _write(path: Path, state: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(state, part, metadata=metadata)
        else:
            try:
                import torch
            except ImportError as error:
                raise ValueError(f"writing {path.name} needs torch; install it, or write .safetensors") from error
            torch.save({key: torch.from_numpy(array.copy()) for key, array in state.items()}, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    commands: dict[str, Any] = {"list": list_weights, "inspect": inspect, "convert": convert, "verify": verify}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m ports", description=__doc__)
    except (ValueError, KeyError, OSError) as error:
        console = Console(stderr=True)
        console.print("error:", style="bold red", end=" ")
        console.print(error.args[0] if isinstance(error, KeyError) else str(error), markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
