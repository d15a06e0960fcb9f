"""Ablations against a slow literal reference through taps, networks whose losses are known, and counts of compilations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ipjax
from ipjax import ablation
from ipjax.models.resnet import as_network, resnet
from ipjax.models.vgg import as_network as vgg_as_network
from ipjax.models.vgg import vgg

CLASSES, CHANNELS = 4, 8
BRANCHES = {"one": "one.branch", "two": "two.branch"}
NAMES = ("stem", "one.branch", "two.branch", "two")


def residual_apply(params, x, tap):
    """A stem over pixels, two residual blocks of which the second one's branch is zero, and a mean over pixels."""
    h = tap("stem", jnp.tanh(x @ params["stem"]))
    h = tap("one", h + tap("one.branch", jnp.tanh(h @ params["one"])))
    h = tap("two", h + tap("two.branch", 0 * h))
    return h.mean(axis=(1, 2)) @ params["out"]


@pytest.fixture(scope="module")
def net():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"stem": (3, CHANNELS), "one": (CHANNELS, CHANNELS), "out": (CHANNELS, CLASSES)}
    params = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
    return ipjax.from_function(residual_apply, params, ("stem", "one", "two"))


@pytest.fixture(scope="module")
def images():
    x = np.random.default_rng(0).normal(size=(23, 5, 5, 3)).astype(np.float32)
    return x, np.random.default_rng(1).integers(CLASSES, size=23)


def literal(net, x, labels, removed, means):
    """Cross-entropy and correctness, an image at a time, channel by channel, in float64."""
    found = []
    for image, label in zip(x, labels, strict=True):

        def tap(name, value):
            value = np.array(value)
            for channel in np.flatnonzero(removed.get(name, [])):
                value[..., channel] = np.asarray(means[name])[..., channel]
            return jnp.asarray(value)

        logits = np.asarray(net.run(image[None], tap), np.float64)[0]
        found.append((np.log(np.exp(logits).sum()) - logits[label], logits.argmax() == label))
    cross_entropy, correct = zip(*found, strict=True)
    return np.array(cross_entropy), np.array(correct)


def test_means_are_those_of_the_data(net, images):
    x, _ = images
    values = net.activations(x, NAMES)[1]
    for size in (8, 23):  # the last block is filled up, or there is one
        means = ablation.means(net, x, NAMES, images_at_once=size)
        chex.assert_trees_all_close(dict(means), {name: values[name].mean(axis=0) for name in NAMES}, atol=1e-6)


def test_losses_match_the_literal_reference(net, images):
    x, labels = images
    means = ablation.means(net, x[:10], NAMES)
    mask = np.arange(CHANNELS) % 3 == 0
    for removed in ({}, {"stem": mask}, {"one.branch": np.ones(CHANNELS, bool), "two": mask}):
        losses = ablation.evaluate(net, x, labels, means, removed, images_at_once=9)
        cross_entropy, correct = literal(net, x, labels, removed, means)
        chex.assert_trees_all_close(losses.cross_entropy, cross_entropy, atol=1e-5)
        chex.assert_trees_all_equal(losses.correct, correct)


@pytest.mark.parametrize("start", NAMES)
def test_ablations_that_start_at_their_layer_lose_the_same(net, images, start):
    x, labels = images
    ablated = ablation._Ablated.of(net, x, labels, ablation.means(net, x[:10], NAMES), 9)
    masks = [{start: np.arange(CHANNELS) < count} for count in (1, 5)]
    for found, expected in zip(ablated.each(masks, start), ablated.each(masks), strict=True):
        chex.assert_trees_all_close(found.cross_entropy, expected.cross_entropy, atol=1e-6)
        chex.assert_trees_all_equal(found.correct, expected.correct)


def test_many_ablations_of_a_layer_do_not_run_what_comes_before_it(net, images, monkeypatch):
    x, labels = images
    means, starts = ablation.means(net, x, NAMES), []
    each = ablation._Ablated.each

    def watched(self, removed, start=None):
        starts.append(start)
        return each(self, removed, start)

    monkeypatch.setattr(ablation._Ablated, "each", watched)
    few, many = (np.linspace(0.1, 0.9, count) for count in (3, 8))
    for shares in (few, many):
        ablation.channel_curves(net, x, labels, means, ("stem",), {"order": {"stem": np.arange(CHANNELS)}}, shares=shares)
    assert starts[1::2] == [None, "stem"]  # the others are of the intact network


def test_no_ablation_compiles_anew(images):
    x, labels = images
    traces = 0

    def apply(params, x, tap):
        nonlocal traces
        traces += 1
        return tap("two", tap("one", x.mean(axis=(1, 2)) @ params) * 2)

    net = ipjax.from_function(apply, jnp.eye(3, CLASSES))
    means = ablation.means(net, x, ("one", "two"), images_at_once=9)
    ablation.evaluate(net, x, labels, means, {}, images_at_once=9)
    before = traces
    ablation.evaluate(net, x, labels, means, {"one": np.arange(CLASSES) < 2}, images_at_once=9)
    ablation.knock_out_blocks(net, x, labels, means, {"two": "one"}, images_at_once=9)
    ablation.channel_curves(net, x, labels, means, ("one", "two"), {}, images_at_once=9)
    assert traces == before > 0


def test_a_branch_of_zeros_loses_nothing(net, images):
    x, labels = images
    means = ablation.means(net, x, NAMES)
    one, two = ablation.knock_out_blocks(net, x, labels, means, BRANCHES)
    assert (one["layer"], one["depth"], two["layer"], two["depth"]) == ("one", 2, "two", 3)
    assert two["loss"] == two["loss_lower"] == two["loss_upper"] == two["accuracy_drop"] == 0
    assert two["cross_entropy"] == two["intact_cross_entropy"]
    cross_entropy, correct = literal(net, x, labels, {"one.branch": np.ones(CHANNELS, bool)}, means)
    intact, right = literal(net, x, labels, {}, means)
    change, drop = cross_entropy - intact, right * 1.0 - correct
    margin = 1.96 * change.std(ddof=1) / np.sqrt(len(x))
    found = [one["loss"], one["loss_upper"], one["loss_lower"], one["accuracy_drop"]]
    expected = [change.mean(), change.mean() + margin, change.mean() - margin, drop.mean()]
    chex.assert_trees_all_close(np.array(found), np.array(expected), atol=1e-5)
    assert abs(one["loss"]) > 0.01


def one_channel_apply(params, x, tap):
    """Logits from the second of four channels alone: the sign of the input's first number."""
    h = tap("hidden", x @ params["hidden"])
    return tap("logits", h @ params["out"])


@pytest.fixture(scope="module")
def one_channel():
    """A network, one channel of which carries the class; reference images; images to evaluate."""
    hidden, out = np.random.default_rng(0).normal(size=(5, 4)), np.zeros((4, 2))
    hidden[:, 1], out[1] = [5, 0, 0, 0, 0], [-1, 1]
    params = {"hidden": jnp.asarray(hidden, jnp.float32), "out": jnp.asarray(out, jnp.float32)}
    x = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    x[:, 0] = np.sign(x[:, 0]) * (0.5 + np.abs(x[:, 0]))
    net = ipjax.from_function(one_channel_apply, params)
    labels = (x[:, 0] > 0).astype(int)
    return net, (x[:200], labels[:200]), (x[200:], labels[200:])


def test_every_ranking_finds_the_channel_that_carries_the_class(one_channel):
    net, (reference, known), (x, labels) = one_channel
    scores = ipjax.scores.channel_scores(net, reference, known, ("hidden",), images_at_once=64)
    assert set(scores) == {"conductance", "activation", "gradient_x_activation", "information"}
    assert all(np.argmax(layers["hidden"]) == 1 for layers in scores.values())
    # conductance of a linear network to a baseline of zero is gradient x activation
    chex.assert_trees_all_close(scores["conductance"]["hidden"], scores["gradient_x_activation"]["hidden"], atol=1e-4)
    hidden = reference @ np.asarray(net.params["hidden"])
    chex.assert_trees_all_close(scores["activation"]["hidden"], np.abs(hidden).mean(axis=0), atol=1e-5)
    weights = np.asarray(net.params["out"]).T[(hidden[:, 1] > 0).astype(int)]
    chex.assert_trees_all_close(scores["gradient_x_activation"]["hidden"], np.abs(weights * hidden).mean(axis=0), atol=1e-5)

    means = ablation.means(net, reference, ("hidden",))
    records = ablation.channel_curves(net, x, labels, means, ("hidden",), scores, shares=(0.25, 0.5, 0.75))
    chance = max(labels.mean(), 1 - labels.mean())
    for record in records:
        if record["ranking"] != "random":
            gone = record["num_channels"] > 0 if record["curve"] == "deletion" else record["num_channels"] == 0
            assert record["accuracy"] <= chance if gone else record["accuracy"] == 1
        assert record["intact_accuracy"] == 1
    found = {(area["ranking"], area["curve"]): area for area in ablation.areas(records)}
    for ranking in scores:  # of four shares the first trapezoid falls from all to chance, the rest is chance
        area, lost = found[ranking, "deletion"]["accuracy_area"], records[-1]["intact_accuracy"] - chance
        assert area <= 1 - lost * 0.875 + 1e-9 and found[ranking, "insertion"]["accuracy_area"] >= 1 - 0.125 - 1e-9
        assert found[ranking, "deletion"]["accuracy_area_lower"] is None
    random = found["random", "deletion"]
    assert random["cross_entropy_area_lower"] <= random["cross_entropy_area"] <= random["cross_entropy_area_upper"]


def test_given_conductances_and_activations_are_used(one_channel):
    net, (x, labels), _ = one_channel
    rows = np.abs(np.random.default_rng(2).normal(size=(len(x), 4)))
    scores = ipjax.scores.channel_scores(
        net, x, labels, ("hidden",), conductance={"hidden": -rows}, activation={"hidden": rows}
    )
    for ranking in ("conductance", "activation"):
        chex.assert_trees_all_close(scores[ranking]["hidden"], rows.mean(axis=0))
    expected = ipjax.channels.label_information(rows, labels)
    chex.assert_trees_all_close(scores["information"]["hidden"], np.asarray(expected))
    with pytest.raises(ValueError, match=r"conductance of layer 'hidden': expected \[200, channels\]"):
        ipjax.scores.channel_scores(net, x, labels, ("hidden",), conductance={"hidden": rows[:5]})


def test_curves(net, images):
    x, labels = images
    means = ablation.means(net, x, NAMES)
    score = np.random.default_rng(0).normal(size=CHANNELS)
    asked = []

    def track(layers):
        asked.extend(layers)
        return layers

    arguments = (net, x, labels, means, ("two", "stem"), {"mine": {"two": score, "stem": score}})
    records = ablation.channel_curves(*arguments, shares=(0.25, 0.5), repeats=2, track=track)
    assert asked == ["stem", "two"] and len(records) == 2 * (1 + 2) * 2 * 4
    by_key = {(r["layer"], r["ranking"], r["repeat"], r["curve"], r["share"]): r for r in records}
    assert len(by_key) == len(records)
    best = np.argsort(-score)
    for curve, removed in (("deletion", best[:2]), ("insertion", best[2:])):
        record = by_key["two", "mine", 0, curve, 0.25]
        assert record["num_channels"] == 2
        expected = ablation.evaluate(net, x, labels, means, {"two": np.isin(np.arange(CHANNELS), removed)})
        assert record["cross_entropy"] == expected.cross_entropy.mean() != record["intact_cross_entropy"]
    for ranking, repeat in (("mine", 0), ("random", 0), ("random", 1)):  # the ends are shared
        none, everything = (by_key["stem", ranking, repeat, "deletion", share]["cross_entropy"] for share in (0, 1))
        assert none == by_key["stem", ranking, repeat, "insertion", 1]["cross_entropy"] == records[0]["intact_cross_entropy"]
        assert everything == by_key["stem", ranking, repeat, "insertion", 0]["cross_entropy"] != none
    halves = [by_key["stem", "random", repeat, "deletion", 0.5]["loss"] for repeat in (0, 1)]
    assert halves[0] != halves[1]
    assert by_key["stem", "random", 0, "insertion", 0.5]["loss"] == halves[0]  # keeps what the deletion keeps
    assert records == ablation.channel_curves(*arguments, shares=(0.25, 0.5), repeats=2)

    area = {(a["layer"], a["ranking"], a["curve"]): a for a in ablation.areas(records)}["stem", "random", "deletion"]
    values = [[by_key["stem", "random", r, "deletion", s]["accuracy"] for s in (0, 0.25, 0.5, 1)] for r in (0, 1)]
    expected = [0.125 * v[0] + 0.25 * v[1] + 0.375 * v[2] + 0.25 * v[3] for v in values]
    found = [area[f"accuracy_area{end}"] for end in ("", "_lower", "_upper")]
    chex.assert_trees_all_close(np.array(found), np.array([np.mean(expected), min(expected), max(expected)]))


@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_branches_of_a_resnet(name, last):
    model = nnx.eval_shape(lambda: resnet(name, width=4, num_classes=3, rngs=nnx.Rngs(0)))
    branches = ablation.residual_branches(as_network(model), np.zeros((1, 32, 32, 3), np.float32))
    assert len(branches) == (8 if name == "resnet18" else 16)
    assert branches["layer1.0"] == f"layer1.0.{last}" and branches["layer4.1"] == f"layer4.1.{last}"


def test_a_vgg_has_no_branches():
    model = nnx.eval_shape(lambda: vgg("vgg11", width=4, num_classes=3, rngs=nnx.Rngs(0)))
    x = np.zeros((2, 32, 32, 3), np.float32)
    assert ablation.residual_branches(vgg_as_network(model), x) == {}
    assert ablation.knock_out_blocks(vgg_as_network(model), x, np.zeros(2, int), {}) == ()


def test_errors_say_what_to_do(net, images):
    x, labels = images
    means = ablation.means(net, x, ("stem",))
    with pytest.raises(KeyError, match=r"no means of layer 'two', only of stem; give it to ablation.means"):
        ablation.evaluate(net, x, labels, means, {"two": np.ones(CHANNELS, bool)})
    with pytest.raises(ValueError, match=r"removed of layer 'stem': expected a boolean mask \[8\], got bool of shape \[3\]"):
        ablation.evaluate(net, x, labels, means, {"stem": np.ones(3, bool)})
    with pytest.raises(ValueError, match="labels: expected the network's classes, 0 to 3, got 1 to 4"):
        ablation.evaluate(net, x, np.where(labels > 1, 1, 4), means, {})
    with pytest.raises(ValueError, match="labels: expected 23 integers, one an image, got float64"):
        ablation.evaluate(net, x, labels * 1.0, means, {})
    with pytest.raises(ValueError, match=r"means of layer 'stem': expected shape \[5, 5, 8\], got \[8\]"):
        ablation.evaluate(net, x, labels, {"stem": jnp.zeros(8)}, {})
    with pytest.raises(ValueError, match="logits: not finite for 23 images"):
        ablation.evaluate(net, x * np.nan, labels, means, {})
    with pytest.raises(ValueError, match="shares: expected numbers between 0 and 1 in ascending order"):
        ablation.channel_curves(net, x, labels, means, ("stem",), {}, shares=(0.5, 0.1))
    with pytest.raises(ValueError, match="the name 'random' is taken"):
        ablation.channel_curves(net, x, labels, means, ("stem",), {"random": {}})
    with pytest.raises(KeyError, match="scores: 'mine' has no layer 'stem', only two"):
        ablation.channel_curves(net, x, labels, means, ("stem",), {"mine": {"two": np.ones(8)}})
    with pytest.raises(ValueError, match="scores: expected 8 finite numbers of layer 'stem' by 'mine'"):
        ablation.channel_curves(net, x, labels, means, ("stem",), {"mine": {"stem": np.full(8, np.nan)}})
    with pytest.raises(ValueError, match="repeats: expected 0 or more"):
        ablation.channel_curves(net, x, labels, means, ("stem",), {}, repeats=-1)
    with pytest.raises(ValueError, match="images_at_once: expected at least 1, got 0"):
        ablation.evaluate(net, x, labels, means, {}, images_at_once=0)
    with pytest.raises(ValueError, match="expected at least 2 images, got 1"):
        ablation.means(net, x[:1], ("stem",))


def test_scores_of_any_type_rank_the_largest_first(net, images):
    x, labels = images
    means = ablation.means(net, x, ("stem",))
    values = np.arange(CHANNELS)
    found = [
        ablation.channel_curves(net, x, labels, means, ("stem",), {"own": {"stem": values.astype(kind)}}, repeats=0)
        for kind in (np.float32, np.uint8)
    ]
    assert found[0] == found[1]


def test_means_may_be_lists_and_need_channels(net, images):
    x, labels = images
    means = ablation.means(net, x, ("stem",))
    listed = {name: np.asarray(value).tolist() for name, value in means.items()}
    removed = {"stem": np.ones(CHANNELS, bool)}
    expected, found = (ablation.evaluate(net, x, labels, given, removed) for given in (means, listed))
    np.testing.assert_array_equal(expected.cross_entropy, found.cross_entropy)
    total = ipjax.from_function(lambda params, x, tap: x @ params + 0 * tap("sum", x.sum(axis=1))[:, None], jnp.eye(CLASSES))
    rows = np.ones((4, CLASSES), np.float32)
    with pytest.raises(ValueError, match="no channels"):
        ablation.evaluate(total, rows, np.arange(4), ablation.means(total, rows, ("sum",)), {})
    with pytest.raises(ValueError, match="at least 2 images, got 0"):
        ablation.evaluate(net, x[:0], labels[:0], means, {})
