"""Maps against full conductances summed by NumPy, and a network whose maps are known; typical images against a slow search."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ipjax
from ipjax.attribution import Attribution, attribute, typical
from ipjax.files import save
from ipjax.quadrature import trapezoid

COUNT, SIDE, CLASSES = 7, 8, 4
SPATIAL = ("input", "conv1", "conv2")
STEPS = trapezoid(6)


def apply(params, x, tap):
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = tap(name, jax.nn.relu(x))
    x = tap("whole", jnp.mean(x, axis=(1, 2), keepdims=True))
    return tap("pool", x[:, 0, 0]) @ params["head"]


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)
    shapes = {"conv1": (3, 3, 3, 5), "conv2": (3, 3, 5, 6), "head": (6, CLASSES)}
    return ipjax.from_function(apply, {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()})


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return rng.standard_normal((COUNT, SIDE, SIDE, 3)).astype(np.float32), rng.integers(CLASSES, size=COUNT)


@pytest.fixture(scope="module")
def found(net, data):
    return attribute(net, *data, [6, 0, 3, 2, 5], quadrature=STEPS, images_at_once=2)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_maps_are_sums_of_the_units_conductance(net, data, found):
    x = data[0][[6, 0, 3, 2, 5]]  # of which the second block of three images starts over from the first
    units = {k: np.asarray(v, np.float64) for k, v in ipjax.layer_conductance(net, x, quadrature=STEPS).items()}
    assert tuple(found.sums) == ("input", "conv1", "conv2", "whole", "pool")
    assert tuple(found.maps) == SPATIAL and tuple(found.channel_maps) == tuple(found.channels) == SPATIAL[1:]
    for layer in SPATIAL:
        close(found.maps[layer], units[layer].sum(axis=3))
    for layer, values in units.items():
        close(found.sums[layer], [image.sum() for image in values])
    for layer in SPATIAL[1:]:
        strength = [np.mean([abs(image[:, :, c].sum()) for image in units[layer]]) for c in range(units[layer].shape[3])]
        assert found.channels[layer] == np.argmax(strength)
        close(found.channel_maps[layer], units[layer][:, :, :, np.argmax(strength)])


def test_maps_and_gaps_add_up(net, data, found):
    x = data[0][[6, 0, 3, 2, 5]]
    logits, at_baseline = np.asarray(net(x)), np.asarray(net(0 * x))
    assert (found.predicted == logits.argmax(axis=1)).all() and (found.labels == data[1][[6, 0, 3, 2, 5]]).all()
    close(found.change, (logits - at_baseline)[np.arange(5), found.predicted])
    for layer in SPATIAL:
        close(found.maps[layer].sum(axis=(1, 2)), found.sums[layer])
    conductance = ipjax.layer_conductance(net, x, quadrature=STEPS)
    for layer, gap in ipjax.completeness_gap(net, x, conductance).items():
        np.testing.assert_allclose(found.completeness_gap()[layer], gap, atol=1e-4 * np.abs(found.change).max())
    assert max(np.abs(gap).max() for gap in found.completeness_gap().values()) < 0.2 * np.abs(found.change).max()


@pytest.mark.parametrize("target", [2, "contrast"])
def test_a_linear_network_has_known_maps(target):
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((4, 6, 3, CLASSES)).astype(np.float32)
    linear = ipjax.from_function(lambda params, x, tap: jnp.einsum("bhwc,hwck->bk", x, params), weights)
    images, baseline = rng.standard_normal((2, 3, 4, 6, 3)).astype(np.float32)[:, :3]
    row = np.asarray(ipjax.contrast_weights(CLASSES)) if target == "contrast" else np.eye(CLASSES)[target]
    found = attribute(linear, images, [0, 1, 2], [1, 2], target=target, baseline=baseline[0], quadrature=STEPS)
    each = (images[1:] - baseline[0]) * (weights @ row)
    close(found.maps["input"], each.sum(axis=3))
    close(found.change, each.sum(axis=(1, 2, 3)))
    assert found.target == target and found.channels == {}


def test_chosen_channels_and_layers_and_kinds(net, data):
    kinds = ("most typical", "least typical")
    found = attribute(net, *data, [1, 4], kinds=kinds, layers=["conv2", "pool"], channels={"conv2": 3}, quadrature=STEPS)
    units = ipjax.layer_conductance(net, data[0][[1, 4]], layers=["conv2"], quadrature=STEPS)["conv2"]
    assert found.kinds == kinds and found.channels == {"conv2": 3} and tuple(found.sums) == ("input", "conv2", "pool")
    close(found.channel_maps["conv2"], np.asarray(units)[..., 3])


def test_displayed_images_span_black_to_white(data, found):
    for position, image in zip(found.positions, found.images, strict=True):
        x = data[0][position]
        assert image.dtype == np.uint8 and image.min() == 0 and image.max() == 255
        np.testing.assert_allclose(image, 255 * (x - x.min()) / (x.max() - x.min()), atol=0.51)


def test_typical_images_are_nearest_to_the_mean_of_their_class():
    rng = np.random.default_rng(3)
    features, labels = rng.standard_normal((60, 5)), rng.integers(4, size=60)
    for kind, sign in (("most typical", 1), ("least typical", -1)):
        expected = []
        for label in (3, 1):
            members = [i for i in range(60) if labels[i] == label]
            mean = sum(features[i] for i in members) / len(members)
            expected += sorted(members, key=lambda i: sign * np.sqrt(((features[i] - mean) ** 2).sum()))[:3]
        assert typical(features, labels, kind=kind, per_class=3, classes=[3, 1]).tolist() == expected
    assert labels[typical(features, labels)].tolist() == [0, 1, 2, 3]


def test_typical_images_of_equal_distance_come_by_position():
    features, labels = np.array([[1.0], [-1.0], [0.0], [2.0], [-2.0]]), np.zeros(5, int)
    assert typical(features, labels, per_class=3).tolist() == [2, 0, 1]
    assert typical(features, labels, kind="least typical", per_class=3).tolist() == [3, 4, 0]


@pytest.mark.parametrize(
    ("features", "labels", "settings", "message"),
    [
        (np.zeros((4, 2, 1)), np.zeros(4), {}, "expected [n, d] and [n], got [4, 2, 1] and [4]"),
        (np.zeros((4, 2)), np.zeros(3), {}, "got [4, 2] and [3]"),
        (np.full((4, 2), np.nan), np.zeros(4), {}, "finite"),
        (np.zeros((4, 2)), np.zeros(4), {"kind": "chosen"}, 'expected "most typical" or "least typical", got \'chosen\''),
        (np.zeros((4, 2)), np.zeros(4), {"per_class": 5}, "expected at least 5 images, got 4"),
        (np.zeros((4, 2)), np.zeros(4), {"classes": [7]}, "class 7: expected at least 1 images, got 0"),
        (np.zeros((4, 2)), np.zeros(4), {"per_class": 0}, "per_class: expected at least 1"),
        (np.zeros((4, 2)), np.zeros(4), {"classes": []}, "expected at least one class, got none"),
    ],
)
def test_typical_refuses(features, labels, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        typical(features, labels, **settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": [7]}, "expected from 0 to 6, as there are 7 images, got [7]"),
        ({"positions": [-1, 2]}, "got [-1]"),
        ({"positions": []}, "expected one or more whole numbers"),
        ({"positions": [0.5]}, "expected one or more whole numbers"),
        ({"labels": np.zeros(6, int)}, "labels: expected 7"),
        ({"images": np.zeros((7, 12), np.float32)}, "images: expected [h, w, 3] or [h, w, 1] of one size, got (12,)"),
        ({"images": np.zeros((7, 8, 8, 4), np.float32)}, "got (8, 8, 4)"),
        ({"images": np.zeros((7, 8, 8, 3), np.uint8)}, "images: expected floating numbers"),
        ({"images": np.full((7, 8, 8, 3), np.nan, np.float32)}, "images: expected finite numbers, found NaN or infinity at"),
        ({"kinds": "nice"}, "kinds: expected 2"),
        ({"kinds": ["chosen"]}, "kinds: expected 2"),
        ({"channels": {"pool": 0}}, "layer 'pool' has no map; the layers with space are conv1, conv2"),
        ({"channels": {"whole": 0}}, "layer 'whole' has no map"),
        ({"channels": {"conv1": 5}}, "expected from 0 to 4 for layer 'conv1', got 5"),
        ({"target": 4}, 'expected "predicted", "contrast" or a class from 0 to 3, got 4'),
        ({"target": np.zeros(2, int)}, 'expected "predicted", "contrast" or a class from 0 to 3, got array'),
        ({"target": "label"}, 'expected "predicted", "contrast" or a class'),
        ({"baseline": np.zeros(3)}, "baseline: expected a finite number or an image [8, 8, 3], got shape [3]"),
        ({"images_at_once": 0}, "images_at_once: expected at least 1, got 0"),
    ],
)
def test_attribute_refuses(net, data, changed, message):
    settings = {"images": data[0], "labels": data[1], "positions": [0, 1]} | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        attribute(net, **settings)


def test_attribute_refuses_networks_that_are_not_finite(net, data):
    broken = replace(net, params=net.params | {"head": np.full((6, CLASSES), np.nan, np.float32)})
    with pytest.raises(ValueError, match="the conductance is not finite at input, conv1"):
        attribute(broken, *data, [0, 1], quadrature=STEPS)


def test_attribute_refuses_unknown_layers_and_paths_from_a_layer(net, data):
    with pytest.raises(KeyError, match="conv1"):
        attribute(net, *data, [0], layers=["conv3"])
    with pytest.raises(ValueError, match="starts at layer 'conv1'"):
        attribute(replace(net, start="conv1"), *data, [0])


def test_files_give_back_what_was_saved(found, tmp_path):
    for target in ("predicted", 3):
        saved = replace(found, target=target)
        saved.save(tmp_path / "attribution.npz")
        loaded = Attribution.load(tmp_path / "attribution.npz")
        assert vars(loaded).keys() == vars(saved).keys()
        jax.tree.map(np.testing.assert_array_equal, vars(loaded), vars(saved))
        for name in ("sums", "maps", "channels", "channel_maps"):
            assert list(getattr(loaded, name)) == list(getattr(saved, name))  # in forward order
        assert type(loaded.target) is type(target) and loaded.images.dtype == np.uint8


def test_files_that_are_none_are_refused(found, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file at"):
        Attribution.load(tmp_path / "none.npz")
    save([{"layer": "a"}], tmp_path / "records.npz")
    found.save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:900])
    for name in ("records.npz", "cut.npz"):
        with pytest.raises(ValueError, match=r"is no file of an attribution, or is damaged .*; make it again"):
            Attribution.load(tmp_path / name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.zeros(3, int)}, "labels: expected 5 rows"),
        ({"images": np.zeros((5, 8, 8, 3), np.float32)}, "images: expected uint8"),
        ({"maps": {}}, "expected a map of the layer input"),
        ({"channels": {}}, "a channel's number for each channel's map"),
        ({"sums": {"input": np.zeros(5)}}, "of a layer in sums"),
        ({"kinds": ("chosen",)}, "kinds: expected 5"),
    ],
)
def test_records_of_other_shapes_are_refused(found, changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(found, **changed)
