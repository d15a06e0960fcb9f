"""python -m ports, as a user runs it."""

import subprocess
import sys

import chex
import numpy as np
import pytest
import safetensors.numpy
import torch
import torch_reference
from safetensors import SafetensorError

import ports
from ports import __main__ as program
from ports import catalog, keys, readers, verify


def run(monkeypatch, capsys, *arguments):
    """Exit status and output of a command."""
    monkeypatch.setattr(sys, "argv", ["ports", *map(str, arguments)])
    status = 0
    try:
        program.main()
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture(scope="module")
def state():
    """A narrow vgg11's state dict in torchvision's keys."""
    return ports.export(ports.load("vgg11", "random", width=2, hidden=4, num_classes=3))


@pytest.fixture
def source(state, tmp_path):
    path = tmp_path / "source.pth"
    torch.save({key: torch.from_numpy(array.copy()) for key, array in state.items()}, path)
    return path


def test_list_shows_everything_that_can_be_loaded(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "list")
    assert status == 0
    rows = [line.split() for line in out.splitlines() if line.strip()]
    shown = {(row[0], row[1]) for row in rows if len(row) > 2}
    assert {(entry.network, entry.weights) for entry in catalog.CATALOG} <= shown
    assert {("resnet50", "digits"), ("vgg16", "digits")} <= shown
    assert {entry.network for entry in catalog.CATALOG} == set(keys.ARCHITECTURES)
    assert "0676ba61" in out and "76.13" in out and "92.86" in out


def test_inspect(source, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "inspect", source)
    assert status == 0
    assert "network: vgg11, in the keys of torchvision" in out
    assert "classifier.0.weight" in out and "4 x 784" in out and "float32" in out


def test_inspect_of_anything_else_is_one_sentence(tmp_path, monkeypatch, capsys):
    path = tmp_path / "page.pth"
    path.write_text("<!DOCTYPE html><html>not found</html>")
    status, out, err = run(monkeypatch, capsys, "inspect", path)
    assert status == 2 and not out and "cannot be read as a weights file" in " ".join(err.split())


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("naming", ["torchvision", "timm", "flax"])
def test_convert_there_and_back(naming, ending, source, state, tmp_path, monkeypatch, capsys):
    there, back = tmp_path / f"there{ending}", tmp_path / "back.safetensors"
    assert run(monkeypatch, capsys, "convert", source, there, "--keys", naming)[0] == 0
    chex.assert_trees_all_equal(readers.read(there), ports.export(ports.load("vgg11", source), naming))
    assert run(monkeypatch, capsys, "convert", there, back, "--keys", "torchvision")[0] == 0
    chex.assert_trees_all_equal(readers.read(back), state)
    assert {path.name for path in tmp_path.iterdir()} == {"source.pth", there.name, back.name}


def test_convert_writes_flaxs_keys_by_default_and_says_so_in_the_file(source, tmp_path, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "convert", source, tmp_path / "out.safetensors")
    assert status == 0 and "vgg11: 22 arrays in the keys of flax" in " ".join(out.split())
    with safetensors.safe_open(tmp_path / "out.safetensors", "numpy") as file:
        assert file.metadata() == {"network": "vgg11", "keys": "flax"}
        assert file.get_tensor("features.0.kernel").shape == (3, 3, 3, 2)


def test_convert_overwrites_nothing(source, tmp_path, monkeypatch, capsys):
    before = source.read_bytes()
    status, _, err = run(monkeypatch, capsys, "convert", source, source)
    assert status == 2 and "exists; choose another name" in " ".join(err.split())
    assert source.read_bytes() == before


def test_convert_leaves_the_neighbours_alone(source, tmp_path, monkeypatch, capsys):
    part = source.rename(tmp_path / "out.safetensors.part")
    before = part.read_bytes()
    assert run(monkeypatch, capsys, "convert", part, tmp_path / "out.safetensors")[0] == 0
    assert part.read_bytes() == before
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    status, _, err = run(monkeypatch, capsys, "convert", part, tmp_path / "link.safetensors")
    assert status == 2 and "exists; choose another name" in " ".join(err.split())


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_convert_on_a_full_disk_leaves_nothing(ending, source, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise RuntimeError("unexpected pos 16768 vs 16688") if ending == ".pth" else SafetensorError("No space left on device")

    monkeypatch.setattr(program, "_save_safetensors", full)
    monkeypatch.setattr(program, "_save_pth", full)
    status, _, err = run(monkeypatch, capsys, "convert", source, tmp_path / f"out{ending}")
    assert status == 2 and "could not be written, nothing is left of it" in " ".join(err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]


def test_inspect_prints_keys_as_they_are(tmp_path, monkeypatch, capsys):
    safetensors.numpy.save_file({"[/red]x": np.zeros(3), "a\n\x1b[2Jb": np.zeros(3)}, tmp_path / "odd.safetensors")
    status, out, _ = run(monkeypatch, capsys, "inspect", tmp_path / "odd.safetensors")
    assert status == 0 and "[/red]x" in out and r"'a\n\x1b[2Jb'" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.pth", "out.safetensors"), "expected a file at missing.pth, found nothing"),
        (("{source}", "out.npz"), "expected the ending .safetensors, .pth or .pt, got 'out.npz'"),
        (("{other}", "out.safetensors"), "expected the keys of one of resnet18"),
        (("{source}", "out.safetensors", "--network", "vgg13"), "does not fit this architecture"),
        (("{source}", "no/folder/out.safetensors"), "expected a folder at no/folder, found none"),
    ],
)
def test_convert_of_what_cannot_be(arguments, message, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    safetensors.numpy.save_file({"weight": np.zeros(3)}, tmp_path / "other.safetensors")
    arguments = [argument.format(source=source, other=tmp_path / "other.safetensors") for argument in arguments]
    status, _, err = run(monkeypatch, capsys, "convert", *arguments)
    assert status == 2 and message in " ".join(err.split())
    assert {path.name for path in tmp_path.iterdir()} == {"source.pth", "other.safetensors"}


def test_verify_compares_every_layer(tmp_path, monkeypatch, capsys):
    path = torch_reference.save(torch_reference.network("resnet18", num_classes=4), tmp_path / "weights.pth")
    status, out, _ = run(monkeypatch, capsys, "verify", "resnet18", path, "--size", "64")
    assert status == 0 and "all 60 layers within 0.0001" in out
    assert "layer1.0.relu " in out and "layer4.1 " in out and "avgpool" in out


@pytest.mark.slow
def test_verify_sees_a_wrong_layer(monkeypatch, capsys):
    errors = verify.layer_errors
    monkeypatch.setattr(verify, "layer_errors", lambda *args, **kwargs: errors(*args, **kwargs) | {"features.1": np.nan})
    status, out, err = run(monkeypatch, capsys, "verify", "vgg11", "random", "--size", "32")
    assert status == 2 and "nan  too large" in out and "1 of 27 layers differ" in " ".join(err.split())


def test_verify_measures_the_difference_of_the_weights(tmp_path):
    model = torch_reference.network("resnet18", num_classes=4)
    net = ports.load("resnet18", torch_reference.save(model, tmp_path / "weights.pth"))
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32)
    outputs = verify._outputs(model, torch_reference.to_torch(x))
    model.layer3[0].conv1.weight.data *= 1.01
    changed = verify._outputs(model, torch_reference.to_torch(x))
    ours = net.activations(x, "all")[1]
    assert verify._relative_error(ours["layer2.1"], changed["layer2.1"]) < 1e-5
    assert verify._relative_error(ours["layer3.0.conv1"], outputs["layer3.0.conv1"]) < 1e-5
    assert 0.009 < verify._relative_error(ours["layer3.0.conv1"], changed["layer3.0.conv1"]) < 0.011


def test_narrow_networks_have_no_torchvision_reference(monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "verify", "vgg16", "digits", "--size", "32")
    assert status == 2 and "torchvision's vgg16 does not take these weights" in " ".join(err.split())


def test_unknown_weights_list_the_known(monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "verify", "vgg16", "IMAGENET1K_V7")
    assert status == 2 and "IMAGENET1K_V1" in err
    status, _, err = run(monkeypatch, capsys, "verify", "vgg16", "IMAGENET1K_FEATURES")
    assert status == 2 and "IMAGENET1K_FEATURES" in err


def test_reading_needs_no_torch(source):
    code = "import sys; from ports.__main__ import main; main(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "inspect", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
