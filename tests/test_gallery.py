"""The gallery: figures made small, a caption for each, refusals."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from docs import gallery


def _run(folder, names, size=(60, 40), **settings):
    folder.mkdir()
    defaults = {"network": "resnet50", "weights": "digits", "data": "digits", "clutter": 1.0}
    (folder / "config.json").write_text(json.dumps(defaults | settings))
    for name in names:
        Image.new("RGB", size, "white").save(folder / f"{name}.png")
    return folder


def test_figures_of_several_runs_and_a_page_that_shows_them(tmp_path):
    first = _run(tmp_path / "a", ["ite", "information_plane"])
    second = _run(tmp_path / "b", ["information_plane"], network="vgg16", clutter=0.0)
    third = tmp_path / "c"
    third.mkdir()
    (third / "config.json").write_text(json.dumps({"networks": ["tanh", "relu"]}))
    Image.new("RGB", (60, 40)).save(third / "plane_kde.png")
    page = gallery.main(gallery.Config((first, second, third), tmp_path / "docs")).read_text()
    shown = [line.split("(")[-1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert shown == [
        "figures/information_plane.png",
        "figures/ite.png",
        "figures/vgg16_digits_on_digits/information_plane.png",
        "figures/training_tanh_relu/plane_kde.png",
    ]
    assert all((tmp_path / "docs" / path).is_file() for path in shown)
    assert "resnet50 (digits) on digits in clutter" in page and "by kde" in page


def test_a_large_figure_gets_small_and_keeps_its_form(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "LARGEST", 15_000)
    noise = np.random.default_rng(0).integers(0, 255, (80, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "ite.png")
    small = gallery.smaller(tmp_path / "ite.png")
    assert len(small) <= gallery.LARGEST < (tmp_path / "ite.png").stat().st_size
    width, height = Image.open(io.BytesIO(small)).size
    assert 0 < width < 320 and abs(width / height - 4) < 0.1


def test_a_small_figure_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ite.png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(gallery.smaller(tmp_path / "ite.png")))), pixels)


def test_an_unknown_figure_is_refused_before_anything_is_written(tmp_path):
    run = _run(tmp_path / "a", ["information_plane", "surprise"])
    with pytest.raises(ValueError, match=r"surprise\.png: expected one of information_plane, .* give it a caption"):
        gallery.main(gallery.Config((run,), tmp_path / "docs"))
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: (), ValueError, "at least one finished run"),
        (lambda path: (path / "none",), FileNotFoundError, "expected the folder of a finished run"),
        (lambda path: (_run(path / "a", []),), FileNotFoundError, "expected figures"),
        (lambda path: (_run(path / "a", ["ite"]), _run(path / "b", ["ite"])), ValueError, "different networks or data"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        gallery.main(gallery.Config(make(tmp_path), tmp_path / "docs"))


def test_a_run_without_settings_is_refused(tmp_path):
    run = _run(tmp_path / "a", ["ite"])
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: expected the settings"):
        gallery.main(gallery.Config((run,), tmp_path / "docs"))
