"""Dominators against brute force: a layer is held at its value for other inputs, and what still changes is not its function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import ipjax
from ipjax.graph import dominators
from ipjax.models.resnet import ResNet
from ipjax.models.vgg import VGG
from ipjax.taps import from_tapping_module


def brute_force(net, x, other):
    """Nearest layer that, held at its values for `x`, keeps a layer's values for `other` those for `x`."""
    names = net.layers(x, "all")

    @jax.jit
    def run(net, x, held, values):
        layers = {}

        def tap(name, value):
            layers[name] = value if values is None else jnp.where(names.index(name) == held, values[name], value)
            return layers[name]

        net.run(x, tap)
        return layers

    values = run(net, x, -1, None)
    free = run(net, other, -1, values)
    varying = [name for name in names if not np.allclose(free[name], values[name], rtol=1e-4)]
    holds = {}
    for name in varying:
        found = run(net, other, names.index(name), values)
        holds[name] = {other for other in varying if other != name and np.allclose(found[other], values[other], rtol=1e-4)}
    before = {name: [d for d in varying if name in holds[d]] for name in names}
    return {name: max(before[name], key=lambda d: len(before[d]), default=None) for name in names}


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check(net, x, other):
    got = dominators(net, x, "all")
    assert got == brute_force(net, x, other)
    assert tuple(got) == net.layers(x, "all")
    return got


def many_ways(params, x, tap):
    a = tap("a", jnp.tanh(x @ params))
    b = tap("b", jax.nn.relu(a @ params))  # a jit around a custom_jvp
    c = tap("c", jnp.sin(a))
    d = tap("d", b + c)
    e = tap("e", d @ params)
    f = tap("f", e * c)
    g = tap("g", jax.checkpoint(jnp.cos)(f) + x.sum())  # around everything
    constant = tap("constant", jnp.ones(3) * params[0, 0])
    h, i = jax.jit(lambda first, second: (first + constant, second * 2))(e, f)  # each output has one input
    h, i = tap("h", h), tap("i", i)
    looped = jax.lax.fori_loop(0, 2, lambda _, value: (value[0] * 1.1, value[1] * 1.1), (h, i))
    j = tap("j", looped[0])  # a loop counts as one step; brute force sees h alone below
    return tap("k", j + i) + g


def test_branches_against_brute_force():
    got = dominators(ipjax.from_function(many_ways, normal((3, 3))), np.zeros((4, 3)), "all")
    expected = brute_force(ipjax.from_function(many_ways, normal((3, 3))), normal((4, 3), 1), normal((4, 3), 2))
    assert (got.pop("j"), expected.pop("j")) == ("a", "h")
    assert got == expected
    assert expected["constant"] is None and expected["g"] == "input" and expected["d"] == "a" and expected["i"] == "f"


def test_layers_that_are_not_asked_for_are_passed_over():
    net = ipjax.from_function(many_ways, normal((3, 3)), default_layers=("b", "e", "f"))
    x = jax.ShapeDtypeStruct((4, 3), np.float32)
    assert dominators(net, x) == {"input": None, "b": "input", "e": "input", "f": "input"}
    assert dominators(net, x, ["a", "e", "h"]) == {"a": None, "e": "a", "h": "e"}


def test_several_inputs():
    def apply(params, x, tap):
        image, question = tap("image", jnp.tanh(x["image"])), tap("question", jnp.tanh(x["question"]))
        both = tap("both", image * question)
        return tap("late", both + 1) + tap("late image", image * 2)

    x, other = ({"image": normal((4, 2), seed), "question": normal((4, 2), seed + 1)} for seed in (0, 2))
    got = check(ipjax.from_function(apply, jnp.ones(1)), x, other)
    assert (got["image"], got["both"], got["late"]) == ("input.image", None, "both")


def test_the_path_may_start_at_a_layer_and_go_around_it():
    def apply(params, x, tap):
        h = tap("embedding", jnp.tanh(x @ params))
        y = tap("after", h @ params)
        return tap("around", y + x)

    net = ipjax.from_function(apply, normal((3, 3)), start="embedding")
    got = check(net, normal((4, 3), 1), normal((4, 3), 2))
    assert got == {"input": None, "after": "input", "around": None}


@pytest.fixture(scope="module")
def resnet():
    return from_tapping_module(ResNet("resnet18", width=2, num_classes=3, rngs=nnx.Rngs(0)), ("maxpool", "layer1.0"))


def test_residual_blocks(resnet):
    got = check(resnet, normal((2, 16, 16, 3)), normal((2, 16, 16, 3), 1))
    assert (got["layer1.1"], got["layer1.1.conv1"], got["layer1.1.bn2"]) == ("layer1.0", "layer1.0", "layer1.1.conv2")
    assert (got["layer2.0"], got["layer2.0.downsample.1"]) == ("layer1.1", "layer2.0.downsample.0")
    assert (got["fc"], got["avgpool"], got["maxpool"]) == ("avgpool", "layer4.1", "relu")


def test_the_blocks_of_a_resnet50_are_a_chain_and_their_insides_are_not():
    model = nnx.eval_shape(lambda: ResNet("resnet50", width=64, num_classes=10, rngs=nnx.Rngs(0)))
    blocks = [f"layer{i + 1}.{j}" for i, depth in enumerate((3, 4, 6, 3)) for j in range(depth)]
    names = ("input", "maxpool", *blocks, "fc")
    got = dominators(from_tapping_module(model, names[1:]), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    assert got == dict(zip(names, (None, *names[:-1]), strict=True))
    inside = [*(f"{block}.bn3" for block in blocks), "fc"]
    net = from_tapping_module(model, inside)
    assert set(dominators(net, jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)).values()) == {None, "input"}


def test_a_vgg_is_a_chain():
    model = nnx.eval_shape(lambda: VGG("vgg16", width=64, hidden=4096, num_classes=10, rngs=nnx.Rngs(0)))
    net, x = from_tapping_module(model, ()), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    names = net.layers(x, "all")
    assert dominators(net, x, "all") == dict(zip(names, (None, *names[:-1]), strict=True))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(3)(nn.relu(nn.Dense(3)(x)))) + x


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.remat(Block)()(Block()(x)))


def test_a_linen_module():
    x = normal((4, 3), 1)
    net = ipjax.from_linen(Linen(), Linen().init(jax.random.key(0), x))
    got = check(net, x, normal((4, 3), 2))
    blocks = [name for name in got if "Dense" not in name and name != "input"]
    assert len(blocks) == 2 and got[blocks[0]] == "input" and got[blocks[1]] == blocks[0]
    assert got[f"{blocks[1]}.Dense_1"] == blocks[0]  # the inner one: Flax numbers them as they are made


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second, self.third = (nnx.Linear(3, 3, rngs=rngs) for _ in range(3))

    def __call__(self, x):
        h = jnp.tanh(self.first(x))
        return self.third(h + jnp.tanh(self.second(h)))


def test_an_nnx_module():
    got = check(ipjax.from_nnx(NNX(nnx.Rngs(0))), normal((4, 3), 1), normal((4, 3), 2))
    assert got == {"input": None, "first": "input", "second": "first", "third": "first"}


def test_unknown_layers_are_refused(resnet):
    with pytest.raises(KeyError, match=r"no layer 'layer1\.9'"):
        dominators(resnet, np.zeros((1, 16, 16, 3), np.float32), ["layer1.9"])


def test_layers_inside_loops_are_refused():
    def apply(params, x, tap):
        return jax.lax.scan(lambda h, _: (tap("inside", jnp.tanh(h)), None), x @ params, None, length=3)[0]

    with pytest.raises(ValueError, match="no place in the graph: inside"):
        dominators(ipjax.from_function(apply, jnp.eye(3)), np.ones((2, 3), np.float32))
