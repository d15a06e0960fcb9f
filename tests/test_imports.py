"""What importing costs: the frameworks that users may not have are never pulled in."""

import subprocess
import sys

import pytest

FOREIGN = ("torch", "torchvision", "tensorflow", "tensorflow_datasets", "sklearn", "matplotlib", "jinja2")
SLOW = ("scipy.special", "scipy.stats", "optax", "flax.nnx")


@pytest.mark.parametrize("statement", ["import ipjax", "import ipjax, ports"])
def test_importing_pulls_in_no_other_framework(statement):
    code = f"{statement}; import sys; print([name for name in {FOREIGN} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_leaves_what_is_slow_to_where_it_is_used():
    code = f"import ipjax, sys; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import ipjax

    names = "layer_conductance completeness_gap neuron_conductance sensitivity from_function quadrature readout"
    assert all(hasattr(ipjax, name) for name in names.split())
