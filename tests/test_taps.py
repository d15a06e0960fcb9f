"""Networks that report their layers: names, order, taps, and what is compiled."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ipjax
from ipjax.models.resnet import as_network, resnet

PARAMS = {"w1": np.eye(4, dtype=np.float32), "w2": np.ones((4, 3), np.float32)}
X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def apply(params, x, tap):
    x = tap("zeta", x @ params["w1"])
    x = tap("alpha", jax.nn.relu(x))
    return tap("beta", x @ params["w2"])


@pytest.fixture
def net():
    return ipjax.from_function(apply, PARAMS)


def test_layers_come_in_forward_order_after_the_input(net):
    assert net.layers(X) == net.layers(X, "all") == ("input", "zeta", "alpha", "beta")
    assert net.layers(X, ["beta", "input", "zeta", "beta"]) == ("input", "zeta", "beta")
    assert tuple(net.layer_shapes(X)) == net.layers(X)


def test_default_layers():
    net = ipjax.from_function(apply, PARAMS, default_layers=["beta", "zeta"])
    assert net.layers(X) == ("input", "zeta", "beta")
    assert net.layers(X, "all") == ("input", "zeta", "alpha", "beta")
    assert set(ipjax.layer_conductance(net, X)) == {"input", "zeta", "beta"}


def test_shapes_without_computing(net):
    x = jax.ShapeDtypeStruct((7, 4), jnp.float32)
    shapes = {name: value.shape for name, value in net.layer_shapes(x).items()}
    assert shapes == {"input": (7, 4), "zeta": (7, 4), "alpha": (7, 4), "beta": (7, 3)}
    assert net.logits_shape(x).shape == (7, 3)
    assert net.layers(X[:1]) and net.layer_shapes(X[:1])["beta"].shape == (1, 3)  # not those of the batch before


def test_activations(net):
    logits, values = net.activations(X, ["alpha", "zeta"])
    assert tuple(values) == ("zeta", "alpha")
    chex.assert_trees_all_close(values, {"zeta": X, "alpha": np.maximum(X, 0)}, rtol=1e-6)
    chex.assert_trees_all_close(logits, np.maximum(X, 0) @ PARAMS["w2"], rtol=1e-6)
    chex.assert_trees_all_close(net(X), logits, rtol=1e-6)
    assert tuple(net.activations(X)[1]) == ("input", "zeta", "alpha", "beta")


def test_a_tap_replaces_a_layer_for_what_follows(net):
    silenced = net.run(X, lambda name, value: value * (name != "alpha"))
    assert (silenced == 0).all() and (net(X) != 0).any()
    shifted = net.run(X, lambda name, value: value + (name == "input"))
    chex.assert_trees_all_close(shifted, net(X + 1), rtol=1e-6)


def test_a_network_is_a_pytree_of_its_parameters(net):
    assert len(jax.tree.leaves(net)) == 2
    doubled = jax.tree.map(lambda leaf: 2 * leaf, net)
    chex.assert_trees_all_close(doubled(X), 4 * net(X), rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(lambda net, x: net(x))(net, X), net(X), rtol=1e-6)
    gradient = jax.grad(lambda net: net(X).sum())(net)
    chex.assert_trees_all_close(gradient.params["w2"], np.maximum(X, 0).sum(axis=0)[:, None] * np.ones((1, 3)))


# errors


def test_an_unknown_layer_names_the_nearest(net):
    with pytest.raises(KeyError, match="no layer 'alhpa'; the nearest of the network's 4 layers are 'alpha'"):
        net.layers(X, ["zeta", "alhpa"])
    with pytest.raises(KeyError, match=r"no layer 'alhpa'.*no layer 'bet'.*'beta'"):
        net.activations(X, ["alhpa", "bet"])
    with pytest.raises(KeyError, match=r"no layer '77'; .* are 'input', 'zeta', 'alpha'"):
        net.layers(X, ["77"])


def test_a_bare_name_is_no_sequence_of_layers(net):
    with pytest.raises(KeyError, match=r"expected None, .*all.* or a sequence of names, got the string .*alpha"):
        net.layers(X, "alpha")


def test_no_layers(net):
    with pytest.raises(ValueError, match="layers: expected at least one name, got an empty sequence"):
        net.layers(X, [])


@pytest.mark.parametrize("name", ["twice", "input"])
def test_tapping_twice(name):
    def apply(params, x, tap):
        return tap(name, tap("other", tap(name, x)))

    net = ipjax.from_function(apply, {})
    message = f"layer '{name}' was tapped twice in one call; give each call of tap a name of its own, for example"
    for call in (net, net.layers, net.activations, lambda x: ipjax.layer_conductance(net, x)):
        with pytest.raises(ValueError, match=message):
            call(X)


def test_input_shape():
    net = ipjax.Network(PARAMS, apply, input_shape=(4,))
    for call in (net, net.layers, net.activations, net.logits_shape):
        with pytest.raises(ValueError, match=re.escape("x: expected shape [batch, 4] (channels last), got [2, 5]")):
            call(np.zeros((2, 5), np.float32))


# compilation


def test_no_second_trace_for_other_parameters_or_images():
    traces = []

    def counted(params, x, tap):
        traces.append(1)
        return apply(params, x, tap)

    def measure(scale, target):
        net = ipjax.from_function(counted, jax.tree.map(lambda leaf: scale * leaf, PARAMS))
        values = ipjax.layer_conductance(net, scale * X, target=target, readout=ipjax.readout.flatten)
        ipjax.completeness_gap(net, scale * X, values, target=target)
        ipjax.sensitivity(net, scale * X)
        ipjax.neuron_conductance(net, scale * X, "alpha", 1, target=target)

    measure(1.0, target=[0, 1])
    first = len(traces)
    assert first > 0
    measure(2.0, target=[2, 0])
    assert len(traces) == first
    ipjax.layer_conductance(ipjax.from_function(counted, PARAMS), X[:1])  # another shape does trace
    assert len(traces) > first


def test_networks_of_one_module_architecture_share_compiled_code(monkeypatch):
    from ipjax import taps

    traces = []
    merged = taps.TappingModule.__call__
    monkeypatch.setattr(taps.TappingModule, "__call__", lambda *args: traces.append(1) or merged(*args))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)), jnp.float32)
    rule = ipjax.quadrature.trapezoid(2)
    values, counts = [], []
    for seed in (0, 1):
        net = as_network(resnet("resnet18", width=2, num_classes=3, rngs=nnx.Rngs(seed)))
        values.append(ipjax.layer_conductance(net, x, layers=["layer4.1"], target=0, quadrature=rule)["layer4.1"])
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0
    assert not np.allclose(*values)
