"""What starting costs: importing, compiling, and the default run with and without compiled code at hand.

    python -m benchmarks.startup
    python -m benchmarks.startup --runs 0                     # importing alone, half a minute

Everything is measured in fresh processes. `import ipjax` and `import jax, flax` take turns; by module, the time between the two
goes to what is imported after JAX and Flax. The run is `python -m experiments.resnet_ip`, which fills a folder of compiled code
of its own (cold), and again into another folder of results (warm). The time of compilation is cold - warm. What is compiled is
counted in the run's own process, by the events of `jax.monitoring`: what was asked of XLA less what came from the folder.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.environment import environment, print_table, print_values, write

BARE, WHOLE = "import jax, flax", "import ipjax"
BOTH = f"{BARE}\nimport sys\nprint('AFTER', file=sys.stderr, flush=True)\n{WHOLE}"
MODULES = 12  # shown, the longest first
COUNTED_RUN = """
import json, sys
from collections import Counter
from pathlib import Path

from jax import monitoring

events = Counter()
monitoring.register_event_listener(lambda name, **_: events.update([name]))
monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.update([name]))

from experiments import resnet_ip
from experiments.runner import command_line

counts = Path(sys.argv.pop(1))
command_line(resnet_ip.main)
asked, found = events["/jax/core/compile/backend_compile_duration"], events["/jax/compilation_cache/cache_hits"]
counts.write_text(json.dumps({"compilations": asked - found, "from_folder": found}))
"""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    imports: int = 9
    """times that each of the imports is timed, in turn"""
    runs: int = 1
    """cold runs, each with a warm one after it"""
    out: Path | None = None
    """file for the numbers, as JSON"""


def main(config: Config) -> dict[str, Any]:
    """Prints and returns the numbers: seconds, medians where repeated."""
    numbers: dict[str, Any] = {"environment": environment()}
    print_values(numbers["environment"])
    for statement in (BARE, WHOLE):  # writes bytecode where there is none
        python("-c", statement)
    times: dict[str, list[float]] = {BARE: [], WHOLE: []}
    for round_ in range(config.imports):
        for statement in (BARE, WHOLE) if round_ % 2 == 0 else (WHOLE, BARE):
            times[statement].append(python("-c", statement))
    medians = {statement: statistics.median(values) for statement, values in times.items()}
    numbers["imports"] = medians | {"ratio": medians[WHOLE] / medians[BARE], "times": times}
    print_table([{"import": statement, "seconds": seconds} for statement, seconds in medians.items()])
    print(f"ratio {numbers['imports']['ratio']:.3f}\n")
    numbers["imported_after"] = imported_after()
    print_table([{"then imported": name, "seconds": seconds} for name, seconds in numbers["imported_after"].items()])
    numbers["runs"] = [row for _ in range(config.runs) for row in cold_and_warm()]
    if numbers["runs"]:
        shown = [_medians([row for row in numbers["runs"] if row["run"] == kind]) for kind in ("cold", "warm")]
        numbers["medians"], numbers["compiling"] = shown, shown[0]["seconds"] - shown[1]["seconds"]
        print()
        print_table(shown)
        print(f"compiling (cold - warm) {numbers['compiling']:.1f} s")
    write(config.out, numbers)
    return numbers


def _medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: value if key == "run" else statistics.median(row[key] for row in rows) for key, value in rows[0].items()}


def python(*arguments: str) -> float:
    """Wall time of a Python process, in seconds. Raises `subprocess.CalledProcessError` where it fails."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def imported_after() -> dict[str, float]:
    """Package -> seconds of the imports, those within it, that `import ipjax` adds to `import jax, flax`."""
    command = [sys.executable, "-X", "importtime", "-c", BOTH]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr.split("AFTER\n")[1]
    spent: dict[str, float] = {}
    for own, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)", told):
        package = module.split(".")[0]
        spent[package] = spent.get(package, 0.0) + int(own) / 1e6
    return dict(sorted(spent.items(), key=lambda item: -item[1])[:MODULES])


def cold_and_warm(*arguments: str) -> list[dict[str, Any]]:
    """A run without compiled code, and one with what that has left behind."""
    with tempfile.TemporaryDirectory() as folder:
        common = ("--compiled", f"{folder}/compiled", *arguments)
        return [{"run": kind} | counted_run(Path(folder) / kind, common) for kind in ("cold", "warm")]


def counted_run(out: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Wall and processor seconds of a run in a process of its own, how much it compiled, and what it found compiled."""
    counts = out.with_suffix(".json")
    before, start = os.times(), time.perf_counter()
    python("-c", COUNTED_RUN, str(counts), "--out", str(out), *arguments)
    seconds, after = time.perf_counter() - start, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "processor_seconds": processor} | json.loads(counts.read_text())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
