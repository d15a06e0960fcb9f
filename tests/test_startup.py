"""What a second run compiles: nothing."""

import pytest

from benchmarks.startup import cold_and_warm

SMALL = ("--num-images", "60", "--num-steps", "2", "--layers", "layer4.2", "avgpool", "--shard-size", "60", "--ablation")


@pytest.mark.slow
def test_a_second_run_compiles_nothing():
    cold, warm = cold_and_warm(*SMALL)
    assert cold["compilations"] > 20
    assert warm["compilations"] == 0
    assert warm["from_folder"] == cold["compilations"] + cold["from_folder"]
