"""Settings of every test run."""

import os

# Nearly all of a run is compiling: LLVM without its optimisations takes a quarter of the time. XLA's own passes stay.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
