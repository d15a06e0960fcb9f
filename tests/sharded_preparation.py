"""Run by test_distributed.py: a run's folder is made by the first host, for which the other one waits.

Arguments: a port, the number of this process of two, and the folder.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from experiments.runner import Config, _prepare
from ipjax import runtime


def main(port, process, out):
    runtime.initialize(f"127.0.0.1:{port}", 2, int(process))
    config = Config(out=Path(out))
    if runtime.is_main():
        time.sleep(2)
    _prepare(config.out, config)
    assert (config.out / "config.json").exists()
    try:
        _prepare(config.out, replace(config, seed=1))
    except ValueError as error:
        assert "seed was 0, is 1" in str(error), error
    else:
        raise AssertionError("settings of another run were taken")


if __name__ == "__main__":
    main(*sys.argv[1:])
