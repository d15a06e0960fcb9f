"""Settings of every test run."""

import os

# Most of a run is compiling. LLVM's optimisations cost it a quarter more processor time than they save; XLA's own passes stay.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
