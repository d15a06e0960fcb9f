"""Digits in clutter: reproducible, halves apart, nuisances as the images show them."""

import numpy as np
import pytest

from ipjax.data.digits import CANVAS, MEAN, NUISANCES, NUM_CLASSES, NUM_TEST, STD, digits_in_clutter, plain_digits

PIXEL = np.arange(CANVAS)


def canvas(data):
    return np.maximum(data.images[..., 0] * STD + MEAN, 0)


def centre(images):
    """Row and column of the centre of mass."""
    mass = images.sum(axis=(1, 2))
    return images.sum(axis=2) @ PIXEL / mass, images.sum(axis=1) @ PIXEL / mass


@pytest.fixture(scope="module")
def cluttered():
    return digits_in_clutter("train", 900, seed=5)


def test_shapes_and_types(cluttered):
    assert cluttered.images.shape == (900, 32, 32, 3)
    assert cluttered.images.dtype == np.float32
    assert np.isfinite(cluttered.images).all()
    assert set(cluttered.labels) == set(range(NUM_CLASSES))
    assert cluttered.nuisances.keys() == NUISANCES.keys()
    for values in (cluttered.labels, *cluttered.nuisances.values()):
        assert values.shape == (900,)
        assert np.issubdtype(values.dtype, np.integer)


def test_colours_are_equal_and_about_normalised(cluttered):
    assert (cluttered.images == cluttered.images[..., :1]).all()
    assert abs(cluttered.images.mean()) < 0.25
    assert 0.75 < cluttered.images.std() < 1.25


def test_the_seed_decides(cluttered):
    again, other = (digits_in_clutter("train", 900, seed=seed) for seed in (5, 6))
    assert (cluttered.images == again.images).all()
    assert (cluttered.labels == again.labels).all()
    assert all((cluttered.nuisances[name] == again.nuisances[name]).all() for name in NUISANCES)
    assert not (cluttered.images == other.images).all(axis=(1, 2, 3)).any()


def test_halves_are_drawn_differently_and_share_no_digit():
    halves = [digits_in_clutter(half, size, clutter=0) for half, size in (("train", 898), ("test", 899))]
    rows = [{image.tobytes() for image in half.images} for half in halves]
    assert (len(rows[0]), len(rows[1])) == (898, 899)  # so these are all of scikit-learn's 1797 digits
    assert not rows[0] & rows[1]


def test_every_digit_of_a_half_comes_equally_often():
    images = digits_in_clutter("train", 2 * 898, clutter=0).images
    counts = np.unique(images.reshape(len(images), -1), axis=0, return_counts=True)[1]
    assert (counts == 2).all()


def test_labels_are_those_of_the_digits():
    from sklearn.datasets import load_digits

    source = load_digits()
    label_of = {tuple(image.ravel()): label for image, label in zip(source.images, source.target, strict=True)}
    plain = digits_in_clutter("test", 50, clutter=0)
    # A digit 17 pixels wide keeps every one of the 8 x 8 grey values near some pixel: compare by nearest resampled source.
    shrunk = canvas(plain)[:, 8:24:2, 8:24:2].reshape(50, -1)
    keys = np.array(list(label_of))
    nearest = np.argmax(np.corrcoef(shrunk, keys)[:50, 50:], axis=1)
    found = np.array(list(label_of.values()))[nearest]
    assert np.mean(found == plain.labels) > 0.9


def test_without_clutter_digits_are_centred_alone_and_alike():
    plain = digits_in_clutter("train", 500, clutter=0)
    assert plain.nuisances == {}
    images = canvas(plain)
    assert np.abs(images[:, :6]).max() < 0.05  # 17 pixels in the middle of 32, and what interpolation adds
    assert np.abs(images[:, :, 26:]).max() < 0.05
    row, column = centre(images)
    assert abs(row.mean() - 15.5) < 0.3
    assert abs(column.mean() - 15.5) < 0.3
    assert max(row.std(), column.std()) < 1


@pytest.mark.parametrize("name", NUISANCES)
def test_nuisance_classes_are_equally_frequent(cluttered, name):
    classes = NUISANCES[name]
    counts = np.bincount(cluttered.nuisances[name], minlength=classes)
    assert len(counts) == classes
    standard_error = np.sqrt(900 * (1 / classes) * (1 - 1 / classes))
    assert np.abs(counts - 900 / classes).max() < 4 * standard_error


def test_nuisances_do_not_tell_the_label_or_one_another(cluttered):
    values = [cluttered.labels, *cluttered.nuisances.values()]
    for i, a in enumerate(values):
        for b in values[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(900)


def test_nuisances_describe_the_images(cluttered):
    images = canvas(cluttered)
    row, column = centre(images)
    cell = cluttered.nuisances["position"]

    def correlation(a, b):
        return np.corrcoef(a, b)[0, 1]

    # Four standard errors are .13; clutter and noise blur what would be 1.
    assert correlation(row, cell // 3) > 0.7
    assert correlation(column, cell % 3) > 0.7
    assert max(abs(correlation(row, cell % 3)), abs(correlation(column, cell // 3))) < 0.13
    assert correlation(images.max(axis=(1, 2)), cluttered.nuisances["contrast"]) > 0.7
    assert correlation(images.sum(axis=(1, 2)), cluttered.nuisances["size"]) > 0.3


def test_less_clutter_spreads_less():
    spread = [np.std(centre(canvas(digits_in_clutter("train", 300, clutter=clutter)))[0]) for clutter in (0, 0.3, 1)]
    assert spread[0] < spread[1] < spread[2]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"half": "valid"}, 'half: expected "train" or "test", got \'valid\''),
        ({"num_images": 0}, "num_images: expected at least 1, got 0"),
        ({"clutter": 1.5}, "clutter: expected a number from 0 to 1, got 1.5"),
        ({"clutter": -0.1}, "clutter: expected"),
        ({"clutter": float("nan")}, "clutter: expected"),
    ],
)
def test_settings_that_make_no_sense(settings, match):
    with pytest.raises(ValueError, match=match):
        digits_in_clutter(**{"half": "train", "num_images": 4, **settings})


def test_the_half_for_tests_has_as_many_digits_as_it_says():
    assert len(plain_digits("test")[1]) == NUM_TEST
