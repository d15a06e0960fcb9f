"""The same numbers from data and work that are spread over emulated devices, and over processes."""

from emulated_devices import check, start


def test_conductance_of_a_sharded_batch():
    check(start("sharded_conductance.py", devices=8))
