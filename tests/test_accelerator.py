"""The benchmark of accelerators, on a small network: what it prints is of the work that it names."""

import json

import jax
import numpy as np
import pytest

import ipjax
from benchmarks import accelerator
from benchmarks.accelerator import Config, Numbers, kind_of

CHANNELS = 4


@pytest.fixture
def small(monkeypatch):
    """A convolution and the logits in place of a ResNet."""
    keys = jax.random.split(jax.random.key(0))
    params = {"kernel": jax.random.normal(keys[0], (3, 3, 3, CHANNELS)), "out": jax.random.normal(keys[1], (CHANNELS, 10))}

    def apply(params, x, tap):
        x = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return tap("conv", jax.nn.relu(x)).mean((1, 2)) @ params["out"]

    net = ipjax.from_function(apply, params)
    monkeypatch.setattr(accelerator, "_network", lambda config, convolutions=None: net)
    return net


def test_conductance_by_precision_and_block(small, tmp_path):
    config = Config(side=8, num_steps=2, precisions=("default", "bfloat16"), blocks=((2, 3), (1, 3)), repeats=1)
    numbers = Numbers(tmp_path / "numbers.json")
    numbers.add("limits", {"product": "default", "tflop_s": 1e-3})
    accelerator.conductance(config, numbers)
    sizes, *rows = numbers.found["conductance"]
    assert sizes["gflop_of_a_node"] == pytest.approx(2 * 2 * (8 * 8 * CHANNELS * 27 + CHANNELS * 10) / 1e9)
    assert sizes["layers"] == 2  # input and conv
    assert [(row["work"], row["precision"], row["images"]) for row in rows] == [
        ("conductance", "default", 2),
        ("conductance", "bfloat16", 2),
        ("passes", "default", 2),
        ("passes", "bfloat16", 2),
        ("passes, lax", "default", 2),
        ("conductance", "default", 1),
    ]
    for row in rows:
        per_node = row["seconds"] / row["images"] / 3
        assert row["node_ms"] == pytest.approx(1e3 * per_node)
        assert row["tflop_s"] == pytest.approx(sizes["gflop_of_a_node"] / 1e3 / per_node)
        if row["precision"] == "default":
            assert row["share_of_product"] == pytest.approx(row["tflop_s"] / 1e-3)
    exact, rounded = numbers.found["changes from float64"]
    assert exact["largest"] < 1e-5 < 1e-3 < rounded["median"] < 0.1
    assert json.loads(numbers.out.read_text()).keys() == numbers.found.keys()


def test_estimators_that_would_take_long_are_left_out(monkeypatch):
    monkeypatch.setattr(accelerator, "SLOW", 0.0)
    monkeypatch.setattr(accelerator.channels, "label_information", lambda *_: np.zeros(1))
    monkeypatch.setattr(accelerator.channels, "input_information", lambda *_: np.zeros(1))
    numbers = Numbers(None)
    accelerator.estimators(Config(samples=(60, 80), features=(2,), repeats=1), numbers)
    rows = {(row["estimator"], row["n"]): row for row in numbers.found["estimators"]}
    short, long = rows["KDE, labels", 60], rows["KDE, labels", 80]
    assert "left_out" not in short
    assert long["left_out"]
    assert long["seconds"] == pytest.approx(short["seconds"] * (80 / 60) ** 2)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm80_xmma_dgrad_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "convolution"),
        ("gemm_fusion_dot_12", "matrix product"),
        ("nvjet_sm90_ttt_128x64_1x2_h_bz_NTN", "matrix product"),
        ("loop_convert_fusion_3", "elementwise"),
        ("input_reduce_fusion", "reduction"),
        ("MemcpyD2D", "copy"),
    ],
)
def test_kinds_of_kernels(kernel, kind):
    assert kind_of(kernel) == kind
