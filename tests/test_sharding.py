"""The same numbers from data and work that are spread over emulated devices, and over processes."""

import pytest
from emulated_devices import check, free_port, start


@pytest.mark.slow
def test_conductance_of_a_sharded_batch():
    check(start("sharded_conductance.py", devices=8))


@pytest.mark.slow
def test_estimates_over_a_mesh():
    check(start("sharded_estimators.py", devices=8))


@pytest.mark.slow
def test_estimates_over_two_processes():
    port = free_port()
    check(*[start("sharded_estimators.py", port, str(process), devices=2) for process in range(2)])
