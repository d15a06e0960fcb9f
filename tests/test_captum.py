"""Conductance against Captum on torchvision's networks, at the same nodes.

In float64 both agree to rounding, but for the nodes of Riemann rules and for weights, which Captum rounds to float32. In
float32 a node that lands next to a ReLU's kink may flip a gradient.
"""

import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference

import ipjax
import ports
from ipjax import quadrature

BLOCKS = ("maxpool", "layer1.1", "layer3.0", "layer4.1", "avgpool")
TARGET = [3, 7]
METHODS = ("gausslegendre", "riemann_trapezoid", "riemann_left", "riemann_middle", "riemann_right")


def load(name, folder):
    model = torch_reference.network(name, num_classes=10)
    return model, ports.load(name, torch_reference.save(model, folder / "weights.safetensors"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """resnet18 in float64, in both frameworks."""
    model, net = load("resnet18", tmp_path_factory.mktemp("resnet18"))
    with jax.enable_x64(True):
        return model.double(), jax.tree.map(lambda leaf: leaf.astype(jnp.float64), net)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def images(seed=0, size=32):
    return np.random.default_rng(seed).standard_normal((2, size, size, 3))


def captum_layers(model, x, baseline, names, **settings):
    """Captum's layer conductance, a call a layer."""
    values = {}
    for name in names:
        method = captum.attr.LayerConductance(model, model.get_submodule(name))
        x_torch, baseline_torch = torch_reference.to_torch(x), torch_reference.to_torch(baseline)
        value = torch_reference.to_numpy(method.attribute(x_torch, baseline_torch, torch.tensor(TARGET), **settings))
        values[name] = value[:, 0, 0] if name == "avgpool" else value
    return values


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(  # every method's nodes and weights have a quick test of their own
    "method", [*METHODS[:2], *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[2:])]
)
def test_layer_conductance_equals_captums(pair, method):
    model, net = pair
    x, baseline = images(), 0.1 * images(seed=1)
    expected = captum_layers(model, x, baseline, BLOCKS, n_steps=9, method=method)
    rule = quadrature.captum(9, method)
    got = ipjax.layer_conductance(net, x, layers=BLOCKS, target=TARGET, baseline=baseline, quadrature=rule)
    errors = {name: torch_reference.relative_error(got[name], expected[name]) for name in BLOCKS}
    assert max(errors.values()) < (1e-9 if method == "gausslegendre" else 1e-6), errors


@pytest.mark.slow
def test_layer_conductance_of_resnet50_equals_captums_in_float32(tmp_path):
    model, net = load("resnet50", tmp_path)
    x, names = images(size=64).astype(np.float32), ("maxpool", "layer1.2", "layer2.3", "layer3.5", "layer4.2")
    expected = captum_layers(model, x, 0 * x, names, n_steps=9)
    got = ipjax.layer_conductance(net, x, layers=names, target=TARGET, quadrature=quadrature.captum(9))
    errors = {name: torch_reference.relative_error(got[name], expected[name]) for name in names}
    assert max(errors.values()) < 1e-3, errors


@pytest.mark.usefixtures("x64")
def test_input_equals_captums_integrated_gradients(pair):
    model, net = pair
    x, baseline = images(), 0.1 * images(seed=1)
    expected = captum.attr.IntegratedGradients(model).attribute(
        torch_reference.to_torch(x), torch_reference.to_torch(baseline), torch.tensor(TARGET), n_steps=9
    )
    rule = quadrature.gauss_legendre(9)
    got = ipjax.layer_conductance(net, x, layers=["input"], target=TARGET, baseline=baseline, quadrature=rule)
    assert torch_reference.relative_error(got["input"], torch_reference.to_numpy(expected)) < 1e-6


@pytest.mark.usefixtures("x64")
def test_neuron_conductance_equals_captums(pair):
    model, net = pair
    x, (row, column, channel) = images(), (3, 1, 2)  # of layer2.1's 4 x 4 x 128
    method = captum.attr.NeuronConductance(model, model.layer2[1])
    expected = method.attribute(
        torch_reference.to_torch(x),
        (channel, row, column),
        target=torch.tensor(TARGET),
        n_steps=9,
        method="gausslegendre",
    )
    rule = quadrature.gauss_legendre(9)
    got = ipjax.neuron_conductance(net, x, "layer2.1", (row, column, channel), target=TARGET, quadrature=rule)
    assert torch_reference.relative_error(got, torch_reference.to_numpy(expected)) < 1e-6
