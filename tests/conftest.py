"""Settings of every test run."""

import gc
import os

# Most of a run is compiling. LLVM's optimisations cost it a quarter more processor time than they save; XLA's own passes stay.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_freed():
    """Each compiled function takes memory maps, of which a process may have 65,530: without them the compiler crashes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_kept_for_one_module():
    """A run of the main program has JAX keep compiled code in its folder from then on."""
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
