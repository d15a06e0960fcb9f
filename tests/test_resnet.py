"""ResNets against torchvision with the same weights, layer for layer."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference
from flax import nnx

import ports
from ipjax.models.resnet import resnet
from ports.verify import layer_errors

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
LAST_RELU = {"resnet18": "relu_1", "resnet50": "relu_2"}  # torchvision's name for what a block returns


@pytest.fixture(scope="module", params=BLOCKS)
def pair(request, tmp_path_factory):
    """A torchvision model and the network loaded from its state dict."""
    name = request.param
    model = torch_reference.network(name)
    path = torch_reference.save(model, tmp_path_factory.mktemp(name) / "weights.safetensors")
    return name, model, ports.load(name, path)


def images(height, width, batch=2):
    return np.random.default_rng(0).standard_normal((batch, height, width, 3)).astype(np.float32)


def torchvision_nodes(name, names):
    """torchvision's node -> our layer; `input` has none."""
    blocks = {f"layer{i + 1}.{j}" for i, depth in enumerate(BLOCKS[name]) for j in range(depth)}
    return {(f"{layer}.{LAST_RELU[name]}" if layer in blocks else layer): layer for layer in names if layer != "input"}


@pytest.mark.parametrize("size", [(224, 224), (97, 61)])
def test_every_layer_equals_torchvisions(pair, size):
    name, model, net = pair
    x = images(*size)
    logits, ours = jax.jit(lambda net, x: net.activations(x, "all"))(net, x)
    theirs = torch_reference.layers(model, x, torchvision_nodes(name, net.layers(x, "all")))
    theirs["avgpool"] = theirs["avgpool"][:, 0, 0]
    assert set(ours) == {"input", *theirs}
    errors = {layer: torch_reference.relative_error(ours[layer], theirs[layer]) for layer in theirs}
    assert max(errors.values()) < 1e-4, errors
    assert torch_reference.relative_error(logits, theirs["fc"]) < 1e-4


def test_layer_names_are_torchvisions_and_in_forward_order(pair):
    name, model, net = pair
    x = images(64, 64)
    _, nodes = torch_reference.torchvision.models.feature_extraction.get_graph_node_names(model)
    expected = [torchvision_nodes(name, net.layers(x, "all")).get(node) for node in nodes]
    ours = [layer for layer in net.layers(x, "all") if "downsample" not in layer]
    assert [layer for layer in expected if layer and "downsample" not in layer] == ours[1:]
    unnamed = [node for node, layer in zip(nodes, expected, strict=True) if layer is None]
    assert all(node in ("x", "flatten") or node.endswith(".add") for node in unnamed), unnamed


def test_default_layers_are_stem_blocks_and_pooled_features(pair):
    name, _, net = pair
    blocks = [f"layer{i + 1}.{j}" for i, depth in enumerate(BLOCKS[name]) for j in range(depth)]
    assert net.layers(images(64, 64)) == ("input", "maxpool", *blocks, "avgpool")


def test_repeated_relus_of_a_block_are_numbered(pair):
    name, _, net = pair
    block = [layer.removeprefix("layer1.0.") for layer in net.layers(images(64, 64), "all") if "layer1.0." in layer]
    relus = [layer for layer in block if "relu" in layer]
    assert relus == {"resnet18": ["relu"], "resnet50": ["relu", "relu_1"]}[name]


@pytest.mark.parametrize("shape", [(2, 32, 32, 4), (2, 3, 32, 32), (32, 32, 3), (2, 32, 32)])
def test_wrong_channels_or_rank_are_refused(pair, shape):
    message = f"x: expected shape [batch, any, any, 3] (channels last), got {list(shape)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        pair[2](jnp.zeros(shape))


def test_evaluation_mode_does_not_mix_images(pair):
    net, x = pair[2], images(64, 64, batch=3)
    alone, together = jax.jit(lambda net, x: (net(x[:1]), net(x)[:1]))(net, x)
    assert torch_reference.relative_error(alone, together) < 1e-5


def test_unknown_architecture_lists_the_known():
    with pytest.raises(KeyError, match=r"expected one of resnet18, .*got 'resnet19'"):
        resnet("resnet19", rngs=nnx.Rngs(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_every_layer_of_the_other_members_equals_torchvisions(name, tmp_path):
    net = ports.load(name, torch_reference.save(torch_reference.network(name), tmp_path / "weights.pth"))
    errors = layer_errors(name, net)
    assert max(errors.values()) < 1e-4, errors
