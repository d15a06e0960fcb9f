"""VGGs against torchvision with the same weights, layer for layer."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference
from flax import nnx

import ipjax
import ports
from experiments.train_digits import without_batch_norm
from ipjax.models.vgg import ARCHITECTURES, MaxPool, vgg

DROPOUTS = ("classifier.2", "classifier.5")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """torchvision's vgg16_bn, and ours loaded from its state dict."""
    model = torch_reference.network("vgg16_bn", num_classes=20)
    path = torch_reference.save(model, tmp_path_factory.mktemp("vgg16_bn") / "weights.safetensors")
    return model, ports.load("vgg16_bn", path)


def images(height, width, batch=2, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, height, width, 3)).astype(np.float32)


def assert_every_layer_equals(net, model, x):
    logits, ours = jax.jit(lambda net, x: net.activations(x, "all"))(net, x)
    theirs = torch_reference.layers(model, x, {layer: layer for layer in ours if layer != "input"})
    errors = {layer: torch_reference.relative_error(ours[layer], theirs[layer]) for layer in theirs}
    assert max(errors.values()) < 1e-4, errors
    assert torch_reference.relative_error(logits, theirs["classifier.6"]) < 1e-4


@pytest.mark.parametrize("size", [(224, 224), (32, 32), (97, 161)])
def test_every_layer_equals_torchvisions(pair, size):
    model, net = pair
    assert_every_layer_equals(net, model, images(*size, batch=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_of_every_member_equals_torchvisions(name, tmp_path):
    model = torch_reference.network(name)
    net = ports.load(name, torch_reference.save(model, tmp_path / "weights.safetensors"))
    assert_every_layer_equals(net, model, images(224, 224, batch=1))


def test_layer_names_are_torchvisions_in_forward_order(pair):
    model, net = pair
    _, nodes = torch_reference.torchvision.models.feature_extraction.get_graph_node_names(model)
    expected = tuple(node for node in nodes if node not in ("x", "flatten", *DROPOUTS))
    assert net.layers(images(32, 32), "all") == ("input", *expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_layers_are_every_relu_and_pooling(name):
    net = ports.load(name, "random", width=1, hidden=1, num_classes=2)
    with torch.device("meta"):
        model = getattr(torch_reference.torchvision.models, name)()
    kinds = (torch.nn.ReLU, torch.nn.MaxPool2d)
    expected = tuple(name for name, module in model.named_modules() if isinstance(module, kinds))
    assert net.layers(images(32, 32)) == ("input", *expected)


def test_gradient_to_the_input_equals_torchs(pair):
    model, net = pair
    x = images(40, 64)
    ours = jax.jit(jax.grad(lambda x, net: net(x)[:, 3].sum()))(x, net)
    theirs = torch_reference.to_torch(x).requires_grad_()
    model(theirs)[:, 3].sum().backward()
    assert torch_reference.relative_error(ours, torch_reference.to_numpy(theirs.grad)) < 1e-4


def test_pooling_gives_the_gradient_to_the_first_of_equals():
    x = np.random.default_rng(0).integers(0, 3, (2, 7, 6, 3)).astype(np.float32)  # an odd row is left out; many ties
    ours, vjp = jax.vjp(MaxPool(), jnp.asarray(x))
    weight = np.random.default_rng(1).standard_normal(ours.shape).astype(np.float32)
    theirs = torch_reference.to_torch(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs, 2)
    pooled.backward(torch_reference.to_torch(weight))
    chex.assert_trees_all_equal(ours, torch_reference.to_numpy(pooled))
    chex.assert_trees_all_equal(vjp(jnp.asarray(weight))[0], torch_reference.to_numpy(theirs.grad))


@pytest.mark.parametrize("shape", [(2, 31, 32, 3), (2, 224, 16, 3)])
def test_too_small_images_are_refused(pair, shape):
    with pytest.raises(ValueError, match=re.escape(f"expected images of at least 32 x 32 pixels, got shape {list(shape)}")):
        pair[1](jnp.zeros(shape))


def test_dropout_draws_in_training_and_not_in_evaluation():
    model = vgg("vgg11", width=2, hidden=64, num_classes=3, rngs=nnx.Rngs(0))
    x = images(32, 32)
    model.train()
    forward = nnx.jit(lambda model, x, key: model(x, rngs=nnx.Rngs(key)))
    first, again, other = (forward(model, x, jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert not np.allclose(first, other)
    model.eval()
    chex.assert_trees_all_equal(forward(model, x, jax.random.key(0)), forward(model, x, jax.random.key(1)))


def test_random_weights_keep_the_signal():
    net = ports.load("vgg16", "random", width=16, hidden=128, num_classes=10)
    logits = jax.jit(lambda net, x: net(x))(net, images(32, 32, batch=64))
    assert 0.05 < float(logits.std(axis=0).mean()) < 5


def test_a_plain_vgg_takes_the_batch_norm_in():
    model = vgg("vgg13_bn", width=2, hidden=8, num_classes=3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for module in model.features:
        if isinstance(module, nnx.BatchNorm):
            module.mean[...] = rng.standard_normal(module.mean.shape)
            module.var[...] = rng.uniform(0.5, 2, module.var.shape)
            module.scale[...] = rng.uniform(0.5, 2, module.scale.shape)
            module.bias[...] = rng.standard_normal(module.bias.shape)
    model.eval()
    plain = without_batch_norm(model)
    plain.eval()
    assert plain.name == "vgg13"
    forward = nnx.jit(lambda model, x: model(x))
    chex.assert_trees_all_close(forward(plain, images(32, 32)), forward(model, images(32, 32)), rtol=1e-4, atol=1e-5)


def test_conductance_is_complete_at_every_default_layer():
    net = ports.load("vgg11_bn", "random", width=2, hidden=8, num_classes=5)
    x = images(32, 32)
    conductance = ipjax.layer_conductance(net, x, target=1, quadrature=ipjax.quadrature.trapezoid(256))
    change = np.abs(conductance["input"].reshape(2, -1).sum(axis=1))
    for layer, gap in ipjax.completeness_gap(net, x, conductance, target=1).items():
        assert np.all(np.abs(gap) < 0.02 * change.max()), layer


def test_unknown_architecture_lists_the_known():
    with pytest.raises(KeyError, match=r"expected one of vgg11, .*got 'vgg12'"):
        vgg("vgg12", rngs=nnx.Rngs(0))
