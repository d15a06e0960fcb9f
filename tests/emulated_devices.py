"""Programs on emulated devices, each in a process of its own: the backend of the tests' process has its number of devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def start(program: str, *arguments: str, devices: int) -> subprocess.Popen:
    """A program of this folder, or (without `.py`) a module, on so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, *([str(HERE / program)] if program.endswith(".py") else ["-m", program]), *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(*running: subprocess.Popen, timeout: float = 300) -> None:
    """Waits for all and fails with the output of one that failed; none outlives it."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        kill(*running)
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output[-5000:]


def kill(*running: subprocess.Popen) -> None:
    for process in running:
        process.kill()
        process.wait()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
