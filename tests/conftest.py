"""Settings of every test run."""

import gc
import os

# Most of a run is compiling. LLVM's optimisations cost it a quarter more processor time than they save; XLA's own passes stay.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_freed():
    """Each compiled function takes memory maps, of which a process may have 65,530: without them the compiler crashes."""
    yield
    jax.clear_caches()
    gc.collect()
