"""Tables of keys: every parameter both ways in every naming, timm's networks, and all that may be wrong with a state dict."""

import chex
import jax
import numpy as np
import pytest
import torch
import torch_reference
from torch_reference import timm

import ports
from ports import keys

NAMINGS = ("torchvision", "timm", "flax")
X = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)


def forward(net, x):
    return jax.jit(lambda net, x: net(x))(net, x)


def narrow(name, seed=0):
    return ports.load(name, "random", width=2, hidden=4, num_classes=3, seed=seed)


DEEP = ("resnet101", "resnet152")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in keys.ARCHITECTURES]
)
def test_every_architecture_comes_back_in_every_naming(name):
    net = narrow(name)
    for naming in NAMINGS:
        state = ports.export(net, naming)
        assert keys.recognise(state) == name
        assert all(array.flags.c_contiguous for array in state.values())
        back = ports.from_state_dict(name, state)
        chex.assert_trees_all_equal(jax.tree.leaves(back), jax.tree.leaves(net))


@pytest.mark.parametrize("name", keys.ARCHITECTURES)
def test_keys_and_layouts_are_torchvisions_and_timms(name):
    net = narrow(name)
    with torch.device("meta"):
        theirs = {
            "torchvision": getattr(torch_reference.torchvision.models, name)(),
            "timm": timm.create_model(f"{name}.tv_in1k", pretrained=False),
        }
    for naming, model in theirs.items():
        expected = {key: w.shape for key, w in model.state_dict().items() if not key.endswith("num_batches_tracked")}
        state = ports.export(net, naming)
        assert set(state) == set(expected)
        assert {key: w.ndim for key, w in state.items()} == {key: len(shape) for key, shape in expected.items()}


@pytest.mark.parametrize("name", [pytest.param("vgg16", marks=pytest.mark.slow), "resnet50"])
def test_timms_networks_both_ways(name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(f"{name}.tv_in1k", pretrained=False, num_classes=10).eval()
    path = torch_reference.save(model, tmp_path / "model.safetensors")
    net = ports.load(name, path)
    x = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch_reference.to_torch(x)).numpy()
    assert torch_reference.relative_error(forward(net, x), expected) < 1e-4

    # to timm, and by way of torchvision's keys and the project's own
    state = ports.export(net, "timm")
    model.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in state.items()}, strict=name == "vgg16")
    with torch.no_grad():
        chex.assert_trees_all_equal(model(torch_reference.to_torch(x)).numpy(), expected)
    other = ports.export(ports.from_state_dict(name, ports.export(net, "torchvision")), "flax")
    chex.assert_trees_all_equal(ports.export(ports.from_state_dict(name, other), "timm"), state)


def test_the_first_dense_layer_of_vgg_is_permuted_and_not_just_reshaped():
    state = ports.export(narrow("vgg11"))
    channels = state["features.18.bias"].size
    weight = np.zeros_like(state["classifier.0.weight"]).reshape(4, channels, 7, 7)
    weight[1, 5, 2, 3] = 1
    net = ports.from_state_dict("vgg11", {**state, "classifier.0.weight": weight.reshape(4, -1)})
    _, values = net.activations(X, ["avgpool", "classifier.0"])
    bias = state["classifier.0.bias"]
    chex.assert_trees_all_close(values["classifier.0"][:, 1], values["avgpool"][:, 2, 3, 5] + bias[1], rtol=1e-6)


def test_counters_of_training_steps_are_passed_over():
    net = narrow("vgg11_bn")
    state = ports.export(net)
    counters = {f"features.{i}.num_batches_tracked": np.array(3) for i in (1, 5)}
    chex.assert_trees_all_equal(jax.tree.leaves(ports.from_state_dict("vgg11_bn", state | counters)), jax.tree.leaves(net))


# what is wrong, all at once


def test_every_difference_is_listed_in_one_error():
    state = ports.export(narrow("vgg11_bn"))
    state["features.30.weight"] = state["features.0.weight"]
    del state["features.4.bias"]
    state["features.8.weight"] = state["features.8.weight"][:, :1]
    state["features.1.running_var"] = -state["features.1.running_var"]
    state["classifier.3.bias"] = state["classifier.3.bias"] * np.nan
    state["optimizer"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"does not fit this architecture \(54 arrays expected, 55 found\)") as caught:
        ports.from_state_dict("vgg11_bn", state, where="model.pth")
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0].startswith("model.pth does not fit") and "6 differences" in lines[0]
    assert sorted(lines[1:]) == [
        "missing: features.4.bias, expected for features.4.bias",
        "negative: features.1.running_var is a variance with values below 0",
        "not finite: classifier.3.bias contains NaN or infinity as float32",
        "not used: features.30.weight",
        "not used: optimizer",
        "shape: features.8.weight is [8, 1, 3, 3], expected [8, 4, 3, 3]",
    ]


@pytest.mark.parametrize(("dtype", "problem"), [(np.complex64, "complex64"), (np.int64, "int64"), (np.bool_, "bool")])
def test_weights_that_are_no_floating_numbers(dtype, problem):
    state = ports.export(narrow("vgg11"))
    state["features.0.bias"] = state["features.0.bias"].astype(dtype)
    with pytest.raises(ValueError, match=f"dtype: features.0.bias is {problem}, expected floating numbers"):
        ports.from_state_dict("vgg11", state)


def test_a_key_of_two_rows_and_a_target_of_two_keys():
    rows = (
        keys.Row("{}.w", "{}.kernel", keys.DENSE, "a|b"),
        keys.Row("b.{}", "b.{}", keys.SAME, "w|bias"),
        keys.Row("c.w", "a.kernel", keys.DENSE),
    )
    targets = {"a.kernel": jax.ShapeDtypeStruct((2, 3), np.float32)}
    source = {"a.w": np.zeros((3, 2)), "b.w": np.zeros((3, 2)), "c.w": np.zeros((3, 2))}
    with pytest.raises(ValueError, match="2 differences") as caught:
        keys.load(rows, source, targets, where="here")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "ambiguous: b.w fits 2 rows, for b.kernel, b.w",
        "twice: a.w and c.w both fill a.kernel",
    ]


def test_a_path_without_a_row_cannot_be_exported():
    with pytest.raises(ValueError, match=r"parameter fc\.gamma: expected one matching row in the table of keys, found 0"):
        keys.export(keys.table("resnet18", "torchvision"), {"fc.gamma": np.zeros(3)})


@pytest.mark.parametrize("name", keys.ARCHITECTURES)
def test_no_parameter_fits_two_rows(name):
    for naming in NAMINGS:
        rows = keys.table(name, naming)
        for key in ports.export(narrow(name), naming):
            assert sum(row.target_of(key) is not None for row in rows) == 1, key


@pytest.mark.parametrize(
    ("name", "other"), [("vgg16", "vgg19"), ("vgg16_bn", "vgg16"), ("resnet50", "resnet101"), ("vgg11", "resnet18")]
)
def test_the_error_names_the_architecture_of_the_keys(name, other):
    with pytest.raises(ValueError, match=f"does not fit this architecture .* its keys look like those of {other}"):
        ports.from_state_dict(name, ports.export(narrow(other)))


def test_a_state_dict_of_none_of_the_architectures_is_not_recognised():
    assert keys.recognise({}) is None
    assert keys.recognise({"conv1.weight": np.zeros((4, 3, 7, 7)), "features": np.zeros(3)}) is None
    state = ports.export(narrow("vgg11"))
    assert keys.recognise({key: array for key, array in state.items() if not key.startswith("features.3")}) is None


def test_only_networks_of_this_project_are_exported():
    import ipjax

    with pytest.raises(ValueError, match=r"expected a ResNet or VGG of ipjax\.models, or a network of one, got Network"):
        ports.export(ipjax.from_function(lambda params, x, tap: x, {}))
