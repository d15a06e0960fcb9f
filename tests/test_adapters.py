"""Unmodified Flax models as networks: what is a layer, what it is called, evaluation mode, starts, further arguments."""

import re

import chex
import flax.linen as nn
import flaxmodels
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ipjax
from ipjax import quadrature
from ipjax.models import resnet, vgg

RULE = quadrature.trapezoid(4)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linen(module, x, *arguments, **keywords):
    """Variables with statistics that batch normalisation cannot ignore."""
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, *arguments, **keywords)
    rng = np.random.default_rng(0)

    def varied(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return {"mean": rng.normal(0, 0.3, leaf.shape), "var": rng.uniform(0.5, 2, leaf.shape)}.get(name, leaf).astype(
            leaf.dtype
        )

    return jax.tree_util.tree_map_with_path(varied, variables)


# a model of an installed package, and the models of Flax's examples


class MnistLinen(nn.Module):
    """The CNN of Flax's MNIST example: convolutions of 32 and 64 features, average pooling, dense layers of 256 and 10."""

    @nn.compact
    def __call__(self, x):
        for features in (32, 64):
            x = nn.avg_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class MnistNNX(nnx.Module):
    """The CNN of Flax's NNX tutorial: the same, with batch normalisation and dropout."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.linear1 = nnx.Linear(3136, 256, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025, rngs=rngs)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x)))), (2, 2), strides=(2, 2))
        x = nnx.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))), (2, 2), strides=(2, 2))
        x = nnx.relu(self.dropout2(self.linear1(x.reshape(len(x), -1))))
        return self.linear2(x)


def test_a_packages_resnet():
    module = flaxmodels.ResNet18(output="logits", pretrained=None, normalize=False, num_classes=5)
    x = normal(2, 32, 32, 3)
    variables = linen(module, x)
    net = ipjax.from_linen(module, variables)
    expected, state = jax.jit(
        lambda variables, x: module.apply(variables, x, train=False, capture_intermediates=True, mutable="intermediates")
    )(variables, x)
    logits, values = jax.jit(lambda net, x: net.activations(x, "all"))(net, x)
    captured = {
        ".".join(key.key for key in path[:-2]): value
        for path, value in jax.tree_util.tree_leaves_with_path(state["intermediates"])
    }
    captured.pop("")
    assert set(values) == {"input", *captured}
    chex.assert_trees_all_close(logits, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(dict(values), {"input": x, **captured}, rtol=1e-4, atol=1e-5)
    assert net.layers(x, ["BasicBlock_0", "Conv_0"]) == ("Conv_0", "BasicBlock_0")


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_flaxs_mnist_examples(kind):
    x = normal(3, 28, 28, 1)
    if kind == "linen":
        module = MnistLinen()
        variables = linen(module, x)
        net, expected = ipjax.from_linen(module, variables), module.apply(variables, x)
        layers = ("input", "Conv_0", "Conv_1", "Dense_0", "Dense_1")
    else:
        model = MnistNNX(nnx.Rngs(0))
        net = ipjax.from_nnx(model)
        assert not model.dropout1.deterministic  # the user's model stays as it is
        model.eval()
        expected = model(x)
        layers = ("input", "conv1", "dropout1", "batch_norm1", "conv2", "batch_norm2", "linear1", "dropout2", "linear2")
    assert net.layers(x) == layers
    chex.assert_trees_all_close(net(x), expected, rtol=1e-5, atol=1e-6)
    conductance = ipjax.layer_conductance(net, x, target="contrast", quadrature=quadrature.trapezoid(512))
    for layer, gap in ipjax.completeness_gap(net, x, conductance, target="contrast").items():
        assert np.all(np.abs(gap) < 2e-3 * np.abs(conductance["input"]).sum()), layer


# the same conductance as through explicit taps


@pytest.mark.parametrize(
    "name_and_model",
    [
        (resnet, resnet.resnet("resnet18", width=4, num_classes=5, rngs=nnx.Rngs(0))),
        (vgg, vgg.vgg("vgg11_bn", width=4, hidden=8, num_classes=5, rngs=nnx.Rngs(0))),
    ],
    ids=["resnet18", "vgg11_bn"],
)
def test_conductance_of_an_nnx_model_equals_that_through_explicit_taps(name_and_model):
    family, model = name_and_model
    x = normal(2, 32, 32, 3)
    net, tapped = ipjax.from_nnx(model), family.as_network(model)
    layers = [name for name in net.layers(x) if name in tapped.layers(x, "all")]
    assert set(tapped.layers(x)) - set(layers) <= {"maxpool", "avgpool"}  # no modules in the ResNet
    got = ipjax.layer_conductance(net, x, layers=layers, target=1, quadrature=RULE)
    expected = ipjax.layer_conductance(tapped, x, layers=layers, target=1, quadrature=RULE)
    for layer in layers:
        scale = np.abs(expected[layer]).max()
        chex.assert_trees_all_close(got[layer] / scale, expected[layer] / scale, atol=1e-4)


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.Dense)(6, name="first")(x)
        x = nn.jit(nn.Dense)(7, name="second")(jnp.tanh(x))
        return nn.Dense(3, name="third")(jnp.tanh(x))


def test_conductance_of_a_linen_module_equals_that_through_explicit_taps():
    module, x = Perceptron(), normal(4, 5)
    variables = module.init(jax.random.key(0), x)

    def apply(params, x, tap):
        def dense(name, x):
            return tap(name, x @ params[name]["kernel"] + params[name]["bias"])

        return dense("third", jnp.tanh(dense("second", jnp.tanh(dense("first", x)))))

    for measure in (ipjax.layer_conductance, ipjax.sensitivity):
        settings = {"target": 2} if measure is ipjax.layer_conductance else {}
        got = measure(ipjax.from_linen(module, variables), x, baseline=0.1, **settings)
        expected = measure(ipjax.from_function(apply, variables["params"]), x, baseline=0.1, **settings)
        assert tuple(got) == tuple(expected) == ("input", "first", "second", "third")
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-6)


# names, nesting, transforms


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(4, name="out")(nn.relu(nn.Dense(8, name="in")(x))), None


class Nested(nn.Module):
    """A module used twice, one given as a field, a scanned stack, outputs that are no layers."""

    given: nn.Module
    length: int = 3

    def setup(self):
        self.shared = nn.Dense(4)
        stack = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=self.length)
        self.stack = stack()

    def __call__(self, x):
        x = self.shared(nn.relu(self.shared(x)))
        x, _ = self.stack(self.given(x), None)
        return x[:, :2]


def test_modules_used_again_and_scanned_ones_are_numbered():
    module = Nested(nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(4)]))
    x = normal(2, 4)
    variables = module.init(jax.random.key(0), x)
    net = ipjax.from_linen(module, variables)
    blocks = [f"stack.{name}{number}" for number in ("", "#1", "#2") for name in ("in", "out")]
    sequential = ["given.layers_0", "given.layers_2", "given"]
    assert net.layers(x) == ("input", "shared", "shared#1", *sequential, *blocks)
    chex.assert_trees_all_close(jax.jit(lambda net, x: net(x))(net, x), module.apply(variables, x), rtol=1e-6)

    params = variables["params"]["stack"]
    h = net.activations(x, ["given"])[1]["given"]
    for i, number in enumerate(("", "#1", "#2")):
        inner = h @ params["in"]["kernel"][i] + params["in"]["bias"][i]
        outer = jax.nn.relu(inner) @ params["out"]["kernel"][i] + params["out"]["bias"][i]
        _, values = net.activations(x, [f"stack.in{number}", f"stack.out{number}"])
        chex.assert_trees_all_close(list(values.values()), [inner, outer], rtol=1e-5, atol=1e-6)
        h = h + outer
    replaced = net.run(x, lambda name, value: value * (name != "stack.out#1"))
    assert not np.allclose(replaced, net(x))


def test_a_long_scan_is_kept_whole():
    module = Nested(nn.Dense(4), length=200)
    x = normal(2, 4)
    net = ipjax.from_linen(module, module.init(jax.random.key(0), x))
    assert net.layers(x) == ("input", "shared", "shared#1", "given")


class Reversed(nn.Module):
    """A scan backwards over a sequence, whose outputs are stacked."""

    @nn.compact
    def __call__(self, x):
        cell = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1, reverse=True)
        carry, sums = cell()(jnp.zeros((len(x), 3)), x)
        return jnp.concatenate([carry, sums.reshape(len(x), -1)], axis=1)


class Cell(nn.Module):
    @nn.compact
    def __call__(self, carry, x):
        carry = jnp.tanh(carry + nn.Dense(3, name="dense")(x))
        return carry, carry.sum(axis=1)


def test_a_reverse_scan_with_outputs():
    module, x = Reversed(), normal(2, 4, 5)
    variables = module.init(jax.random.key(0), x)
    net = ipjax.from_linen(module, variables)
    logits, values = net.activations(x)
    chex.assert_trees_all_close(logits, module.apply(variables, x), rtol=1e-6)
    assert tuple(values) == ("input", *(f"ScanCell_0.dense{n}" for n in ("", "#1", "#2", "#3")))
    dense = variables["params"]["ScanCell_0"]["dense"]
    chex.assert_trees_all_close(values["ScanCell_0.dense"], x[:, 3] @ dense["kernel"] + dense["bias"], rtol=1e-5, atol=1e-6)


class Stacked(nnx.Module):
    """Shared and vectorised modules under NNX's transforms."""

    def __init__(self, rngs):
        self.stem = nnx.Linear(4, 6, rngs=rngs)
        self.blocks = nnx.List([NNXBlock(6, rngs) for _ in range(2)])

        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def stack(rngs):
            return NNXBlock(6, rngs)

        self.stack = stack(rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.jit(lambda module, x: module(x))(self.stem, x)
        for block in self.blocks:
            x = nnx.remat(lambda module, x: module(x))(block, x)
        x = nnx.scan(lambda module, x: module(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.stack, x)
        return self.head(self.blocks[0](x))


class NNXBlock(nnx.Module):
    def __init__(self, size, rngs):
        self.dense = nnx.Linear(size, size, rngs=rngs)
        self.norm = nnx.BatchNorm(size, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.norm(self.dense(x)))


def test_nnx_modules_inside_transforms():
    model, x = Stacked(nnx.Rngs(0)), normal(2, 4)
    net = ipjax.from_nnx(model)
    block = ("dense", "norm", "")
    expected = [
        "input",
        "stem",
        *(f"blocks.{i}.{part}".removesuffix(".") for i in (0, 1) for part in block),
        *(f"stack.{part}".removesuffix(".") + number for number in ("", "#1", "#2") for part in block),
        *(f"blocks.0.{part}".removesuffix(".") + "#1" for part in block),
        "head",
    ]
    assert net.layers(x) == tuple(expected)
    model.eval()
    chex.assert_trees_all_close(jax.jit(lambda net, x: net(x))(net, x), model(x), rtol=1e-5)
    conductance = ipjax.layer_conductance(net, x, target=0, quadrature=quadrature.trapezoid(256))
    gaps = ipjax.completeness_gap(net, x, conductance, target=0)
    for layer in ("input", "stem", "blocks.1", "stack#1", "blocks.0#1"):
        assert np.all(np.abs(gaps[layer]) < 0.01 * np.abs(conductance["input"]).sum()), layer


class Parent(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


class Child(Parent):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Family(nnx.Module):
    def __init__(self, rngs):
        self.child, self.heir = Child(rngs), Heir(rngs)

    def __call__(self, x):
        return self.child(x) + self.heir(x)


class Heir(Child):
    """Inherits its call."""


def test_inherited_calls_are_marked_once_and_classes_are_left_as_they_were():
    model, x = Family(nnx.Rngs(0)), normal(2, 4)
    before = [vars(cls).get("__call__") for cls in (Parent, Child, Heir, Family)]
    net = ipjax.from_nnx(model)
    assert net.layers(x) == ("input", "child.dense", "child", "heir.dense", "heir")
    assert [vars(cls).get("__call__") for cls in (Parent, Child, Heir, Family)] == before
    with pytest.raises(TypeError):
        ipjax.from_nnx(Parent(nnx.Rngs(0)))(normal(2, 7))
    assert [vars(cls).get("__call__") for cls in (Parent, Child, Heir, Family)] == before


class Outputs(nn.Module):
    """Modules that return tuples, integers, scalars and values without a batch."""

    @nn.compact
    def __call__(self, x):
        _carry, y = nn.LSTMCell(4, name="tuple")(nn.LSTMCell(4, parent=None).initialize_carry(jax.random.key(0), x.shape), x)
        codes = Returns(lambda x: jnp.argmax(x, 1), name="integers")(x)
        scale = Returns(jnp.sum, name="scalar")(x[:1] * 0)
        table = nn.Embed(5, 4, name="positions")(jnp.arange(3))
        return Returns(lambda x: x, name="layer")(y + scale + table[0] + codes[:, None] * 0)


class Returns(nn.Module):
    what: object

    def __call__(self, x):
        return self.what(x)


def test_only_floating_arrays_of_the_batch_are_layers():
    module, x = Outputs(), normal(2, 6)
    net = ipjax.from_linen(module, module.init(jax.random.key(0), x))
    names = [name for name in net.layers(x) if not name.startswith("tuple.")]
    assert names == ["input", "layer"]


# evaluation mode


class Stochastic(nn.Module):
    """Dropout and batch normalisation in training mode by fields, by the call and by an argument of the model."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        x = nn.BatchNorm()(nn.Dropout(0.5, deterministic=False)(x), use_running_average=False)
        x = nn.BatchNorm(use_running_average=False)(nn.Dropout(0.5)(x, deterministic=False))
        x = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=False)(x[:, None])[:, 0]
        return nn.Dense(3)(x)


def test_dropout_and_batch_norm_are_in_evaluation_mode_whatever_the_settings():
    module, x = Stochastic(), normal(3, 5)
    variables = linen(module, x, train=False)
    net = ipjax.from_linen(module, variables)
    chex.assert_trees_all_equal(net(x), net(x))
    chex.assert_trees_all_close(net(x)[:1], net(x[:1]), rtol=1e-5)  # no statistics of the batch
    params, statistics = variables["params"], variables["batch_stats"]

    def norm(i, h):
        p, s = params[f"BatchNorm_{i}"], statistics[f"BatchNorm_{i}"]
        return (h - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    h = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    values = net.activations(x)[1]
    for i in range(3):
        h = norm(i, h)
        chex.assert_trees_all_close(values[f"BatchNorm_{i}"], h, rtol=1e-4, atol=1e-5)


def test_an_argument_that_names_the_mode_may_be_given():
    module, x = Stochastic(), normal(3, 5)
    variables = linen(module, x, train=False)
    expected = ipjax.from_linen(module, variables)(x)
    for given in (False, True):
        for net in (ipjax.from_linen(module, variables, given), ipjax.from_linen(module, variables, train=given)):
            chex.assert_trees_all_equal(net(x), expected)


def test_fields_that_python_takes_for_equal_are_told_apart():
    x = normal(2, 3)
    variables = Scaled(1).init(jax.random.key(0), x)
    once, twice = (ipjax.from_linen(Scaled(by), variables)(x) for by in (1, True))
    chex.assert_trees_all_close(twice, 2 * once, rtol=1e-6)


class Scaled(nn.Module):
    by: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) * (2 if self.by is True else 1)


class Half(nn.Module):
    """A bfloat16 model on float32 inputs, with a convolution that accumulates in float32."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, 3, 8))
        half, settings = jnp.bfloat16, {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "preferred_element_type": jnp.float32}
        y = jax.lax.conv_general_dilated(x.astype(half), kernel.astype(half), (1, 1), "SAME", **settings)
        y = nn.tanh(nn.Dense(16, dtype=half)(y.mean((1, 2)) + 1e-4))
        return nn.Dense(3, dtype=half)(y)


@pytest.mark.parametrize("rule", [quadrature.trapezoid(32), quadrature.gauss_legendre(16)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_half_precision_models_are_accumulated_in_single_precision(rule, dtype):
    x = jnp.asarray(normal(2, 6, 6, 3), dtype)
    module = Half()
    variables = module.init(jax.random.key(0), x)
    net = ipjax.from_linen(module, variables)
    chex.assert_trees_all_equal(net(x), module.apply(variables, x))
    conductance = ipjax.layer_conductance(net, x, layers=["Dense_0", "Dense_1"], target=1, quadrature=rule)
    assert all(value.dtype == jnp.float32 for value in conductance.values())
    change = (net(x) - net(0 * x))[:, 1].astype(jnp.float32)
    for value in conductance.values():
        assert np.all(np.abs(value.sum(1) - change) < 0.05 * np.abs(change).max() + 0.01)


# further arguments, pytrees, starts


class Reader(nn.Module):
    """A small BERT: word, position and type embeddings, masked attention, the first token's logits in a dict."""

    @nn.compact
    def __call__(self, tokens, mask, types=None, *, deterministic: bool):
        x = nn.Embed(20, 8, name="words")(tokens) + nn.Embed(16, 8, name="positions")(jnp.arange(tokens.shape[1]))
        if types is not None:
            x = x + nn.Embed(2, 8, name="types")(types)
        x = nn.Dropout(0.1)(nn.LayerNorm(name="norm")(x), deterministic=deterministic)
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, name="attention")
        x = x + attention(x, mask=mask[:, None, None] > 0, deterministic=deterministic)
        return {"hidden": x, "logits": nn.Dense(4, name="head")(jnp.tanh(x[:, 0]))}


@pytest.fixture(scope="module")
def reader():
    tokens = np.random.default_rng(0).integers(0, 20, (3, 7))
    mask = np.arange(7) < np.array([[7], [5], [3]])
    types = (np.arange(7) > 3) * np.ones((3, 1), int)
    module = Reader()
    variables = module.init(jax.random.key(0), tokens, mask, types, deterministic=True)
    return module, variables, tokens, mask, types


def logits_of(result):
    return result["logits"]


def test_a_model_on_tokens_with_a_mask_starts_at_a_layer(reader):
    module, variables, tokens, mask, types = reader
    net = ipjax.from_linen(module, variables, mask, types=types, start="words", output=logits_of)
    expected = module.apply(variables, tokens, mask, types, deterministic=True)["logits"]
    chex.assert_trees_all_close(net(tokens), expected, rtol=1e-5)
    layers = net.layers(tokens)
    assert layers[0] == "input" and layers[-1] == "head" and "words" not in layers and "attention" in layers
    words = variables["params"]["words"]["embedding"]
    chex.assert_trees_all_close(net.activations(tokens, ["input"])[1]["input"], words[tokens])

    baseline = words[0]  # the embedding of a padding token
    conductance = ipjax.layer_conductance(
        net, tokens, target=[0, 1, 2], baseline=baseline, quadrature=quadrature.trapezoid(128)
    )
    assert conductance["input"].shape == (3, 7, 8)
    rest, x = net.at_start(tokens)
    change = rest(x) - rest(jnp.broadcast_to(baseline, x.shape))
    for layer in ("input", "norm", "head"):
        sums = conductance[layer].reshape(3, -1).sum(axis=1)
        chex.assert_trees_all_close(sums, change[jnp.arange(3), jnp.arange(3)], atol=2e-3)
    gaps = ipjax.completeness_gap(net, tokens, conductance, target=[0, 1, 2], baseline=baseline)
    assert np.all(np.abs(gaps["input"]) < 2e-3)
    assert np.all(np.abs(conductance["input"][2, 3:]) < 1e-6)  # masked tokens carry nothing
    assert ipjax.sensitivity(net, tokens, layers=["norm"], baseline=baseline)["norm"].shape == (3, 7, 8)
    assert ipjax.neuron_conductance(net, tokens, "head", 1, baseline=baseline, quadrature=RULE).shape == (3, 7, 8)


def test_another_mask_compiles_nothing_anew(reader, monkeypatch):
    module, variables, tokens, mask, types = reader
    traces = []
    called = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda *args, **kwargs: traces.append(1) or called(*args, **kwargs))
    values = []
    for kept in (mask, np.ones_like(mask)):
        net = ipjax.from_linen(module, variables, kept, types=types, start="words", output=logits_of, deterministic=True)
        values.append(ipjax.layer_conductance(net, tokens, target=0, quadrature=RULE)["head"])
        counted = len(traces) if len(values) == 1 else counted
    assert len(traces) == counted
    assert not np.allclose(*values)


def test_arguments_that_are_no_arrays_are_static(reader):
    module, variables, tokens, mask, _ = reader
    net = ipjax.from_linen(module, variables, mask, None, start="words", output=logits_of)
    expected = module.apply(variables, tokens, mask, None, deterministic=True)["logits"]
    chex.assert_trees_all_close(net(tokens), expected, rtol=1e-5)
    assert "types" not in net.layers(tokens)


class TwoStreams(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        x = nn.Dense(4, name="left")(inputs["image"].reshape(len(inputs["image"]), -1)) * nn.Dense(4, name="right")(
            inputs["text"][0]
        )
        return nn.Dense(3, name="head")(jnp.tanh(x))


def test_a_pytree_of_inputs_takes_one_path():
    x = {"image": normal(3, 2, 2), "text": (normal(3, 5, seed=1),)}
    module = TwoStreams()
    net = ipjax.from_linen(module, module.init(jax.random.key(0), x))
    assert net.layers(x) == ("input.image", "input.text.0", "left", "right", "head")
    rule = quadrature.trapezoid(256)
    baseline = jax.tree.map(lambda leaf: 0.1 * np.ones_like(leaf), x)
    conductance = ipjax.layer_conductance(net, x, target=1, baseline=baseline, quadrature=rule)
    change = (net(x) - net(baseline))[:, 1]
    inputs = conductance["input.image"].sum((1, 2)) + conductance["input.text.0"].sum(1)
    chex.assert_trees_all_close(inputs, change, atol=1e-4)
    gaps = ipjax.completeness_gap(net, x, {"head": conductance["head"]}, target=1, baseline=baseline)
    chex.assert_trees_all_close(gaps["head"], np.zeros(3), atol=1e-4)
    unit = ipjax.neuron_conductance(net, x, "head", 1, target=1, baseline=baseline, quadrature=quadrature.gauss_legendre(64))
    chex.assert_trees_all_equal_shapes(unit, x)
    total = sum(leaf.reshape(3, -1).sum(1) for leaf in jax.tree.leaves(unit))
    chex.assert_trees_all_close(total, conductance["head"][:, 1], atol=1e-4)
    zero = ipjax.layer_conductance(net, x, target=1, baseline=0.1, quadrature=rule)
    chex.assert_trees_all_close(zero, conductance)


def test_pytrees_that_do_not_fit_are_refused():
    x = {"image": normal(3, 2, 2), "text": (normal(3, 5, seed=1),)}
    net = ipjax.from_function(lambda params, x, tap: x["image"].reshape(3, -1), {})
    with pytest.raises(ValueError, match="baseline: expected a number or the structure of x"):
        ipjax.layer_conductance(net, x, baseline={"image": 0.0})
    with pytest.raises(ValueError, match=r"one batch size, got shapes \(3, 2, 2\), \(2, 5\)"):
        ipjax.layer_conductance(net, {"image": x["image"], "text": normal(2, 5)})
    with pytest.raises(ValueError, match=r"expected floating numbers, got int32; .*start="):
        ipjax.layer_conductance(net, {"image": x["image"], "tokens": np.zeros((3, 2), np.int32)})


# what is refused


def test_what_is_no_flax_model():
    with pytest.raises(ValueError, match=r"expected a flax.linen.Module, got .*Linear; for NNX models use ipjax.from_nnx"):
        ipjax.from_linen(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), {"params": {}})
    with pytest.raises(ValueError, match=r"expected a flax.nnx.Module, got .*Dense; for Linen modules use ipjax.from_linen"):
        ipjax.from_nnx(nn.Dense(3))
    for variables in ({}, {"params": {}}, None):
        with pytest.raises(ValueError, match=r"variables: expected what module\.init returns"):
            ipjax.from_linen(nn.Dense(3), variables)
    with pytest.raises(ValueError, match=r"expected what module\.init returns, .* got the keys 'kernel', 'bias'"):
        ipjax.from_linen(nn.Dense(3), {"kernel": normal(2, 3), "bias": normal(3)})


def test_what_cannot_be_called():
    with pytest.raises(ValueError, match=r"expected a module with a __call__, Module has none"):
        ipjax.from_nnx(nnx.Module())
    shapes = jax.eval_shape(nn.Dense(2).init, jax.random.key(0), normal(2, 3))
    with pytest.raises(ValueError, match=r"variables: expected arrays, got other leaves"):
        ipjax.from_linen(nn.Dense(2), shapes)


def test_an_unknown_start_names_the_layers(reader):
    module, variables, tokens, mask, _ = reader
    net = ipjax.from_linen(module, variables, mask, start="word", output=logits_of)
    with pytest.raises(KeyError, match=r"no layer 'word'; .* 'words'"):
        net(tokens)


def test_a_start_at_the_input_is_the_whole_path():
    def apply(params, x, tap):
        return tap("hidden", jnp.tanh(x["a"])) @ params + x["b"]

    x = {"a": normal(3, 2), "b": normal(3, 4, seed=1)}
    whole = ipjax.from_function(apply, normal(2, 4))
    conductance = ipjax.layer_conductance(whole, x, target=1)
    chex.assert_trees_all_equal(
        ipjax.layer_conductance(ipjax.from_function(apply, normal(2, 4), start="input"), x, target=1), conductance
    )
    at_hidden = ipjax.layer_conductance(ipjax.from_function(apply, normal(2, 4), start="hidden"), x, target=1)
    chex.assert_trees_all_close(at_hidden["input"], jnp.tanh(x["a"]) * normal(2, 4)[:, 1], rtol=1e-4, atol=1e-6)
    with pytest.raises(KeyError, match=r"start: expected a layer after the input, got 'input\.a'"):
        ipjax.from_function(apply, normal(2, 4), start="input.a")(x)


def test_a_model_that_returns_no_array_needs_an_output(reader):
    module, variables, tokens, mask, _ = reader
    net = ipjax.from_linen(module, variables, mask, start="words")
    with pytest.raises(
        ValueError, match=re.escape("expected logits [batch, classes], the model returns a value of type dict; pass output=")
    ):
        net(tokens)


def test_tokens_without_a_start_are_refused(reader):
    module, variables, tokens, mask, _ = reader
    net = ipjax.from_linen(module, variables, mask, output=logits_of)
    assert "words" in net.layers(tokens)
    with pytest.raises(ValueError, match=r"expected floating numbers, got int.*start="):
        ipjax.layer_conductance(net, tokens)
