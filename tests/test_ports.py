"""Weights files: round trips, what is read off them, and every way in which a file can be wrong."""

import re
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch_reference
from flax import nnx

import ports
from ipjax.data.digits import digits_in_clutter
from ipjax.models.resnet import resnet


def model_of(net):
    """The NNX module inside a loaded network."""
    return nnx.merge(net.apply.graph, net.params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def state():
    """A narrow resnet18's state dict, as NumPy arrays."""
    return ports.export(resnet("resnet18", width=4, num_classes=5, rngs=nnx.Rngs(0)))


def write(state, path):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(state, path)
    else:
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, path)
    return path


# round trips


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_state_dict_comes_back_equal(name, ending, tmp_path):
    model = torch_reference.network(name, num_classes=7)
    net = ports.load(name, torch_reference.save(model, tmp_path / f"weights{ending}"))
    expected = {k: v.numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    exported = ports.export(model_of(net))
    assert set(exported) == set(expected)
    chex.assert_trees_all_equal(exported, expected)
    assert net.logits_shape(np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 7)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_width_and_number_of_classes_are_read_off_the_file(state, ending, tmp_path):
    net = ports.load("resnet18", write(state, tmp_path / f"narrow{ending}"), width=64, num_classes=1000)
    x = np.zeros((1, 32, 32, 3), np.float32)
    assert net.layer_shapes(x)["maxpool"].shape == (1, 8, 8, 4)
    assert net.logits_shape(x).shape == (1, 5)
    chex.assert_trees_all_equal(ports.export(model_of(net)), state)


def test_a_string_is_a_path_too(state, tmp_path):
    net = ports.load("resnet18", str(write(state, tmp_path / "weights.safetensors")))
    chex.assert_trees_all_equal(ports.export(model_of(net)), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_of_another_precision_become_float32(state, dtype, ending, tmp_path):
    tensors = {key: torch.from_numpy(np.array(value)).to(dtype) for key, value in state.items()}
    save = torch.save if ending == ".pth" else safetensors.torch.save_file
    save(tensors, tmp_path / f"weights{ending}")
    net = ports.load("resnet18", tmp_path / f"weights{ending}")
    expected = {key: value.to(torch.float32).numpy() for key, value in tensors.items()}
    chex.assert_trees_all_equal_shapes_and_dtypes(ports.export(model_of(net)), expected)
    chex.assert_trees_all_equal(ports.export(model_of(net)), expected)


def test_parameters_and_the_format_before_zip(state, tmp_path):
    parameters = {key: torch.nn.Parameter(torch.from_numpy(np.array(value))) for key, value in state.items()}
    torch.save(parameters, tmp_path / "parameters.pth")
    torch.save(torch.load(write(state, tmp_path / "zip.pth")), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("old.pth", "parameters.pth"):
        chex.assert_trees_all_equal(ports.export(model_of(ports.load("resnet18", tmp_path / name))), state)


def test_random_weights_are_their_seeds():
    first, again, other = (
        ports.export(model_of(ports.load("resnet18", "random", width=2, num_classes=3, seed=seed))) for seed in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert first["conv1.weight"].shape == (2, 3, 7, 7) and first["fc.weight"].shape == (3, 16)
    assert not np.allclose(first["conv1.weight"], other["conv1.weight"])


# the checkpoint that ships


def test_digits_checkpoint_classifies_digits():
    net = ports.load("resnet50", "digits")
    data = digits_in_clutter("test", 400)
    logits = jax.jit(lambda net, x: net(x))(net, data.images)
    assert logits.shape == (400, 10)
    assert (np.argmax(logits, axis=1) == data.labels).mean() >= 0.95


def test_digits_checkpoint_is_small_and_has_torchvisions_keys():
    path = ports.DIGITS["resnet50"]
    assert path.stat().st_size <= 8_000_000
    expected = {key for key in torch_reference.network("resnet50").state_dict() if "num_batches" not in key}
    assert set(safetensors.numpy.load_file(path)) - expected == set()
    assert expected - set(safetensors.numpy.load_file(path)) == set()


def test_digits_checkpoint_is_of_one_architecture():
    with pytest.raises(KeyError, match=r"weights .*digits.*: expected one of resnet50, vgg16, got .*resnet18"):
        ports.load("resnet18", "digits")


def test_safetensors_need_no_torch():
    code = "import sys, ports; ports.load('resnet50', 'digits'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# files that do not fit


def test_unknown_architecture():
    with pytest.raises(KeyError, match=r"architecture: expected one of resnet18, .*, got 'resnet51'"):
        ports.load("resnet51", "random")


def test_missing_file_and_folder(folder):
    for path, found in ((folder / "none.pth", "nothing"), (folder, "a folder")):
        message = f"weights file: expected a file at {path}, found {found}"
        with pytest.raises(FileNotFoundError, match=re.escape(message)):
            ports.load("resnet18", path)


def test_another_kind_of_file(folder):
    path = folder / "weights.ckpt"
    path.write_bytes(b"weights")
    with pytest.raises(
        ValueError, match=r"expected safetensors or a state dict by torch\.save, the file starts with b'weights'"
    ):
        ports.load("resnet18", path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_file(state, ending, share, tmp_path):
    path = write(state, tmp_path / f"weights{ending}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = rf"{path.name} \({path.stat().st_size:,} bytes\) cannot be read as a weights file: it is truncated, damaged"
    with pytest.raises(ValueError, match=message):
        ports.load("resnet18", path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_another_architectures_weights_list_missing_and_unused_keys(state, ending, tmp_path):
    path = write(state, tmp_path / f"resnet18{ending}")
    with pytest.raises(ValueError, match=r"does not fit this architecture \(267 arrays expected, 102 found\)") as caught:
        ports.load("resnet50", path)
    lines = str(caught.value).splitlines()
    assert "  missing: layer1.0.conv3.weight, expected for layer1.0.conv3.kernel" in lines
    assert "  shape: layer1.0.conv1.weight is [4, 4, 3, 3], expected [4, 4, 1, 1]" in lines
    with pytest.raises(ValueError, match=r"does not fit this architecture") as caught:
        ports.load("resnet18", ports.DIGITS["resnet50"])
    assert "  not used: layer1.0.conv3.weight" in str(caught.value).splitlines()


@pytest.mark.parametrize("key", ["conv1.weight", "fc.weight"])
def test_empty_arrays(state, key, tmp_path):
    path = write({**state, key: state[key][:0]}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=key):
        ports.load("resnet18", path)


def test_every_difference_is_listed(state, tmp_path):
    broken = dict(state)
    broken["layer1.0.bn1.gamma"] = broken.pop("layer1.0.bn1.weight")
    broken["layer2.0.conv1.weight"] = broken["layer2.0.conv1.weight"][:, :2]
    broken["bn1.running_var"] = np.full_like(broken["bn1.running_var"], np.nan)
    with pytest.raises(ValueError, match="4 differences") as caught:
        ports.load("resnet18", write(broken, tmp_path / "broken.safetensors"))
    assert set(str(caught.value).splitlines()[1:]) == {
        "  missing: layer1.0.bn1.weight, expected for layer1.0.bn1.scale",
        "  shape: layer2.0.conv1.weight is [8, 2, 3, 3], expected [8, 4, 3, 3]",
        "  not finite: bn1.running_var contains NaN or infinity as float32",
        "  not used: layer1.0.bn1.gamma",
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_that_are_not_finite(state, ending, value, tmp_path):
    weight = np.array(state["fc.weight"])
    weight[1, 2] = value
    path = write({**state, "fc.weight": weight}, tmp_path / f"weights{ending}")
    with pytest.raises(ValueError, match=r"not finite: fc\.weight contains NaN or infinity"):
        ports.load("resnet18", path)


class Settings:
    """Not among the types that a state dict may hold."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds Tensor that is not a state dict of tensors"),
        ([torch.zeros(3)], "holds list that is not a state dict of tensors"),
        ({"state_dict": {"fc.weight": torch.zeros(3)}, "epoch": 3}, "does not fit this architecture"),
        ({"fc.weight": torch.zeros(3), "settings": Settings()}, "cannot be read as a weights file"),
        ({}, "does not fit this architecture"),
        ({0: torch.zeros(3)}, "is not a state dict of tensors|does not fit this architecture"),
    ],
    ids=["tensor", "list", "around", "object", "empty", "integer keys"],
)
def test_pth_that_holds_something_else(content, message, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        ports.load("resnet18", tmp_path / "weights.pth")


@pytest.mark.parametrize("weights", [None, 5, {}, b"random", "", np.zeros(3)], ids=str)
def test_weights_that_are_no_name(weights):
    with pytest.raises(ValueError, match="weights: expected a name or a path, got "):
        ports.load("resnet18", weights)


def test_a_repository_of_the_hub_needs_its_prefix():
    with pytest.raises(FileNotFoundError, match=r"found no file timm/resnet18\.a1_in1k; .* are named hf-hub:OWNER/REPOSITORY"):
        ports.load("resnet18", "timm/resnet18.a1_in1k")


@pytest.mark.parametrize("settings", [{"width": 0}, {"num_classes": 2.5}, {"seed": -1}, {"seed": "a"}])
def test_sizes_and_seeds_that_cannot_be(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: expected "):
        ports.load("resnet18", "random", **settings)
