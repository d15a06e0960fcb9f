"""Run by test_distributed.py: what two hosts agree on before a run, and what they tell each other.

Arguments: a port, the number of this process of two, and the run's folder.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.run_folder import prepare
from experiments.runner import Config, _compared
from ipjax import runtime


def main(port, process, out):
    runtime.initialize(f"127.0.0.1:{port}", 2, int(process))
    config = Config(out=Path(out))
    with runtime.together():
        if runtime.is_main():
            time.sleep(2)
            prepare(config.out, _compared(config))
    assert (config.out / "config.json").exists()  # the other one has waited

    def other_settings():
        with runtime.together():
            if runtime.is_main():
                prepare(config.out, _compared(replace(config, seed=1)))

    refused(other_settings, "seed was 0, is 1")
    refused(lambda: runtime.agree(f"seed {process}"), "the same on every host, got seed 0 and seed 1")
    runtime.agree("seed 0")
    rows = runtime.gather(np.full((1 + int(process), 2), 2**40 + int(process)))
    np.testing.assert_array_equal(rows[:, 0] - 2**40, [0, 1, 1])
    assert runtime.gather_texts([f"a{process}", "b\nc"]) == ["a0", "b c", "a1", "b c"]


def refused(function, message):
    try:
        function()
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("not refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
