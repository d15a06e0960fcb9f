"""Pretrained weights: what there is, what a file holds, into other names and formats, against the torch reference.

python -m ports list
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ports import catalog, hub, keys, loading, readers
from ports.state_pickle import describe

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
        table.add_row(Text(describe(key)), " x ".join(map(str, array.shape)) or "scalar", str(array.dtype))
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
    naming: Annotated[keys.Naming, tyro.conf.arg(name="keys")] = "flax",
    network: str | None = None,
) -> None:
    """Writes weights under other names, in the layouts that go with them, as float32.

    Args:
        source: a state dict, .pth or .safetensors, in any of the namings.
        destination: a file to make; .safetensors, or .pth where torch is installed.
        naming: the names to write: flax is this project's own, torchvision and timm lead back.
        network: the architecture; default: told by the keys of the source.
    """
    if os.path.lexists(destination):
        raise ValueError(f"destination: {destination} exists; choose another name")
    if destination.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"destination: expected the ending .safetensors, .pth or .pt, got {destination.name!r}")
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"destination: expected a folder at {destination.parent}, found none")
    arrays = readers.read(source)
    name = network or _recognised(arrays, source)
    state = loading.export(loading.from_state_dict(name, arrays, where=str(source)), naming)
    _write(destination, state, {"network": name, "keys": naming})
    Console().print(f"{name}: {len(state)} arrays in the keys of {naming} written to {destination}", markup=False)


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
    """Writes a whole file or none; raises `OSError`."""
    save = _save_safetensors if path.suffix == ".safetensors" else _save_pth
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        save(state, part, metadata)
        part.chmod(0o644)
        part.replace(path)
    except (SafetensorError, RuntimeError) as error:  # what the libraries make of a full disk
        raise OSError(f"{path} could not be written, nothing is left of it: {str(error).splitlines()[0]}") from error
    finally:
        part.unlink(missing_ok=True)


def _save_safetensors(state: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    save_file(state, path, metadata=metadata)


def _save_pth(state: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    del metadata
    try:
        import torch
    except ImportError as error:
        raise ValueError("destination: writing .pth needs torch; install it, or write .safetensors") from error
    torch.save({key: torch.from_numpy(array.copy()) for key, array in state.items()}, path)


def main() -> None:
    """The command line; an error that the user can mend is printed without a traceback."""
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
