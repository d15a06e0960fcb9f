"""What the figures of attribution show: artists against the record."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import AxesImage

from ipjax.attribution import Attribution
from ipjax.plotting.attribution import SIGNED, figures

LAYERS = {"stem": 8, "block1": 4, "block2": 2}


def record(labels, layers=LAYERS, side=16, seed=0):
    rng = np.random.default_rng(seed)
    count = len(labels)
    maps = {"input": rng.standard_normal((count, side, side)).astype(np.float32)}
    maps |= {name: rng.standard_normal((count, size, size)).astype(np.float32) for name, size in layers.items()}
    return Attribution(
        positions=np.arange(10, 10 + count),
        images=rng.integers(256, size=(count, side, side, 3)).astype(np.uint8),
        labels=np.asarray(labels),
        predicted=np.asarray(labels),
        kinds=("chosen",) * count,
        target="predicted",
        change=maps["input"].sum(axis=(1, 2)),
        sums={name: values.sum(axis=(1, 2)) for name, values in maps.items()} | {"pool": np.zeros(count, np.float32)},
        maps=maps,
        channels={name: 7 + i for i, name in enumerate(layers)},
        channel_maps={name: -maps[name] for name in layers},
    )


def panels(figure) -> dict[str, AxesImage]:
    return {image.get_gid(): image for image in figure.axes[0].images if image.get_gid()}


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts] + [text.get_text() for text in figure.texts]


@pytest.fixture(scope="module")
def drawn():
    found = replace(record([3, 3, 5]), predicted=np.array([3, 8, 5]), kinds=("most typical", "least typical", "chosen"))
    return found, figures(found)


def test_a_panel_an_image_and_layer_with_its_own_symmetric_scale(drawn):
    found, of = drawn
    for figure, maps in ((of["attribution"], found.maps), (of["attribution_channels"], found.channel_maps)):
        shown = panels(figure)
        assert set(shown) == {f"{layer}/{row}" for layer in maps for row in range(3)}
        assert len(figure.axes[0].images) == 3 * (1 + 2 * len(maps))  # the image, and maps over grey ones
        for layer, values in maps.items():
            for row in range(3):
                image = shown[f"{layer}/{row}"]
                np.testing.assert_array_equal(image.get_array(), values[row])
                full = np.quantile(np.abs(values[row]), 0.99)
                np.testing.assert_allclose([image.norm.vmin, image.norm.vmax], [-full, full], rtol=1e-6)
                assert image.cmap is SIGNED


def test_layers_go_from_left_to_right_and_images_from_top_to_bottom(drawn):
    found, of = drawn
    boxes = {name: image.get_extent() for name, image in panels(of["attribution"]).items()}
    for row in range(3):
        lefts = [boxes[f"{layer}/{row}"][0] for layer in found.maps]
        assert lefts == sorted(lefts) and len(set(lefts)) == 4
    tops = [boxes[f"stem/{row}"][3] for row in range(3)]
    low, high = of["attribution"].axes[0].get_ylim()
    assert low > high and tops == sorted(tops)  # the axis points down
    assert all(
        bottom - top == pytest.approx(1) and right - left == pytest.approx(1) for left, right, bottom, top in boxes.values()
    )


def test_red_raises_blue_lowers_and_zero_shows_the_image():
    red, blue, zero = SIGNED(1.0), SIGNED(0.0), SIGNED(0.5)
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and zero[3] == 0 and red[3] == blue[3] > 0.8


def test_words_say_what_is_seen(drawn):
    _, of = drawn
    words = texts(of["attribution"])
    assert "lowers the logit of the predicted class" in words and "raises the logit of the predicted class" in words
    assert {"most typical", "least typical", "image 12", "true 3, predicted 3", "true 3, predicted 8 ✗"} <= set(words)
    assert {"image", "integrated\ngradients", "stem", "block1", "block2"} <= set(words) and "pool" not in words
    assert any("3 of 3 images, 3 of 3 layers with space" in word for word in words)
    assert {"stem\nchannel 7", "block1\nchannel 8", "block2\nchannel 9"} <= set(texts(of["attribution_channels"]))
    assert "raises the logit of class 5" in texts(figures(replace(record([1]), target=5))["attribution"])


def test_many_images_and_layers_are_thinned_out_evenly():
    layers = {f"layer{i}": 2 for i in range(21)}
    found = record([label for label in range(10) for _ in range(2)], layers)
    shown = panels(figures(found)["attribution"])
    rows = sorted({int(name.split("/")[1]) for name in shown})
    assert found.labels[rows].tolist() == [label for label in (0, 2, 4, 5, 7, 9) for _ in range(2)]
    drawn = [layer for layer in found.maps if f"{layer}/0" in shown]
    assert drawn == ["input", *(f"layer{i}" for i in (0, 2, 4, 7, 9, 11, 13, 16, 18, 20))]
    of_one_class = panels(figures(record([4] * 30, {"a": 2}))["attribution"])
    assert {int(name.split("/")[1]) for name in of_one_class} >= {0, 29} and len(of_one_class) == 24


def test_fine_maps_are_summed_in_cells():
    found = record([0], {"stem": 8}, side=128)
    cells = panels(figures(found)["attribution"])["input/0"].get_array()
    np.testing.assert_allclose(cells, found.maps["input"][0].reshape(64, 2, 64, 2).sum(axis=(1, 3)), rtol=1e-4, atol=1e-4)


def test_a_network_without_inner_space_and_a_map_of_zeros_are_drawn():
    found = record([0, 1], {})
    found = replace(found, maps={"input": 0 * found.maps["input"]})
    of = figures(found)
    assert list(of) == ["attribution"]
    image = panels(of["attribution"])["input/0"]
    assert image.norm.vmin == -image.norm.vmax < 0


def test_files_stay_small():
    found = record(list(range(6)) * 2, {f"layer{i}": 16 >> (i // 4) for i in range(10)}, side=32)
    for figure in figures(found).values():
        file = io.BytesIO()
        figure.savefig(file, dpi=150)
        assert 20_000 < len(file.getvalue()) < 600_000  # pure noise: the worst
