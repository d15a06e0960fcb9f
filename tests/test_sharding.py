"""The same numbers from data and work that are spread over emulated devices, and over processes."""

import socket

from emulated_devices import check, start


def test_conductance_of_a_sharded_batch():
    check(start("sharded_conductance.py", devices=8))


def test_estimates_over_a_mesh():
    check(start("sharded_estimators.py", devices=8))


def test_estimates_over_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    check(*[start("sharded_estimators.py", port, str(process), devices=2) for process in range(2)])
