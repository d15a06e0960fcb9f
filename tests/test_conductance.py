"""Conductance against a slow NumPy float64 reference, its own identities, and what users can get wrong."""

import re

import chex
import conductance_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ipjax
import ports
from ipjax import quadrature, readout
from ipjax.data.digits import digits_in_clutter

BATCH = 3
NETWORKS = {"mlp": reference.MLP, "convnet": reference.ConvNet}
RULES = {
    "trapezoid": quadrature.trapezoid,
    "left": quadrature.left,
    "midpoint": quadrature.midpoint,
    "gauss_legendre": lambda n: quadrature.gauss_legendre(n + 1),
    "gausslegendre": quadrature.captum,
    "riemann_trapezoid": lambda n: quadrature.captum(n, "riemann_trapezoid"),
    "riemann_left": lambda n: quadrature.captum(n, "riemann_left"),
    "riemann_middle": lambda n: quadrature.captum(n, "riemann_middle"),
    "riemann_right": lambda n: quadrature.captum(n, "riemann_right"),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    return NETWORKS[request.param].random()


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def network(model):
    return ipjax.from_function(model.apply, jax.tree.map(jnp.asarray, model.params))


def images(model, seed=1):
    return np.random.default_rng(seed).standard_normal((BATCH, *model.input_shape))


@pytest.fixture
def net():
    return network(reference.MLP.random())


@pytest.fixture
def x():
    return images(reference.MLP)


# against the reference


@pytest.mark.parametrize("rule", RULES)
def test_equals_the_numpy_reference(model, rule):
    x, baseline = images(model), 0.5 * images(model, seed=2)
    weights = np.random.default_rng(3).standard_normal((BATCH, model.num_classes))
    expected = reference.layer_conductance(model, x, baseline, weights, *reference.rule(rule, 7))
    got = ipjax.layer_conductance(network(model), x, layers="all", target=weights, baseline=baseline, quadrature=RULES[rule](7))
    chex.assert_trees_all_close(got, expected, rtol=1e-8, atol=1e-10)


def test_layers_come_back_in_forward_order(model):
    net, x = network(model), images(model)
    expected = tuple(model.layers(x[0]))
    assert tuple(ipjax.layer_conductance(net, x)) == expected
    assert tuple(ipjax.sensitivity(net, x)) == expected
    values = ipjax.layer_conductance(net, x, readout=readout.flatten)
    assert tuple(values) == tuple(ipjax.completeness_gap(net, x, values)) == expected


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre"])
def test_neuron_conductance_equals_the_numpy_reference(rule):
    model = reference.MLP.random()
    x, weights, unit = images(model), np.asarray([1.0, -2.0, 0.5]), 4
    nodes, node_weights, _ = reference.rule(rule, 7)
    expected = np.zeros_like(x)
    for i, image in enumerate(x):
        for a, w in zip(nodes, node_weights, strict=True):
            rates = [model.rates(a * image, direction)["block"][unit] for direction in np.eye(5)]
            expected[i] += w * image * model.gradients(a * image, weights)["block"][unit] * np.asarray(rates)
    got = ipjax.neuron_conductance(network(model), x, "block", unit, target=weights, quadrature=RULES[rule](7))
    chex.assert_trees_all_close(got, expected, rtol=1e-8, atol=1e-10)


def test_sensitivity_is_the_directional_derivative(model):
    x, baseline = images(model), 0.5 * images(model, seed=2)
    each = [model.rates(image, image - start) for image, start in zip(x, baseline, strict=True)]
    expected = {name: np.stack([rates[name] for rates in each]) for name in each[0]}
    got = ipjax.sensitivity(network(model), x, layers="all", baseline=baseline)
    chex.assert_trees_all_close(got, expected, rtol=1e-8, atol=1e-10)


def test_sensitivity_equals_a_finite_difference(net, x):
    eps = 1e-5
    ahead, behind = (net.activations(x * (1 + sign * eps), "all")[1] for sign in (1, -1))
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * eps), ahead, behind)
    chex.assert_trees_all_close(ipjax.sensitivity(net, x), expected, rtol=1e-6, atol=1e-8)


def test_input_gives_integrated_gradients(net, x):
    nodes, weights, _ = reference.rule("gauss_legendre", 7)
    gradient = jax.grad(lambda x: jnp.sum(net(x)[:, 1]))
    expected = x * sum(w * gradient(a * x) for a, w in zip(nodes, weights, strict=True))
    got = ipjax.layer_conductance(net, x, layers=["input"], target=1, quadrature=quadrature.gauss_legendre(8))
    chex.assert_trees_all_close(got["input"], expected, rtol=1e-10)


# identities


def test_gap_closes_at_cut_layers_only(model):
    net, x = network(model), images(model)
    arguments = {"target": np.asarray([1.0, -2.0, 0.5]), "baseline": 0.1}
    gap = {}
    for steps in (8, 512):
        values = ipjax.layer_conductance(net, x, layers="all", quadrature=quadrature.trapezoid(steps), **arguments)
        gap[steps] = ipjax.completeness_gap(net, x, values, **arguments)
    for name in model.layers(x[0]):
        coarse, fine = (np.abs(gap[steps][name]).max() for steps in (8, 512))
        if name in model.cuts:  # a ReLU's kink leaves an error of the order of the step, a smooth path of its square
            assert fine <= max(coarse / 16, 1e-12), name
        else:
            assert fine > 0.1, name


def test_gap_is_the_sum_less_the_change_of_the_target(net, x):
    values = {"one": jnp.ones((BATCH, 2, 4)), "two": 2 * jnp.ones((BATCH, 8))}
    gap = ipjax.completeness_gap(net, x, values, target=2, baseline=0.25)
    change = (net(x) - net(jnp.full_like(x, 0.25)))[:, 2]
    chex.assert_trees_all_close(gap, {"one": 8 - change, "two": 16 - change}, rtol=1e-12)


@pytest.mark.slow
def test_gap_shrinks_on_the_digits_network():
    net = ports.load("resnet50", "digits")
    x = digits_in_clutter("test", 8).images
    logits = np.asarray(jax.jit(lambda net, x: net(x))(net, np.concatenate([x, 0 * x])))
    predicted = np.arange(8), np.argmax(logits[:8], axis=1)
    change = np.abs(logits[:8][predicted] - logits[8:][predicted])
    error = {}
    for steps in (8, 32):
        values = ipjax.layer_conductance(
            net, x, quadrature=quadrature.trapezoid(steps), readout=readout.channel_sum, nodes_at_once=3
        )
        gap = ipjax.completeness_gap(net, x, values)
        error[steps] = {name: float(np.mean(np.abs(value) / change)) for name, value in gap.items()}
    assert np.mean(list(error[32].values())) < np.mean(list(error[8].values())) / 2, error
    assert max(error[32].values()) < 0.05
    assert error[8]["avgpool"] < 1e-5  # what follows is linear, so one step is exact


def test_neuron_conductance_adds_up_to_the_units_conductance(model):
    net, x, rule = network(model), images(model), quadrature.gauss_legendre(6)
    name = model.cuts[1]
    unit = (0,) * (len(model.layers(x[0])[name].shape) - 1) + (2,)
    whole = ipjax.layer_conductance(net, x, layers=[name], target=1, baseline=0.2, quadrature=rule)[name]
    parts = ipjax.neuron_conductance(net, x, name, unit, target=1, baseline=0.2, quadrature=rule)
    assert parts.shape == x.shape
    chex.assert_trees_all_close(parts.reshape(BATCH, -1).sum(axis=1), whole[(slice(None), *unit)], rtol=1e-10)


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint", "gausslegendre"])
@pytest.mark.parametrize("nodes_at_once", [1, 2, 5, 1000])
def test_chunks_do_not_matter(net, x, rule, nodes_at_once):
    whole = ipjax.layer_conductance(net, x, quadrature=RULES[rule](11))
    chunked = ipjax.layer_conductance(net, x, quadrature=RULES[rule](11), nodes_at_once=nodes_at_once)
    chex.assert_trees_all_close(chunked, whole, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint", "gausslegendre"])
@pytest.mark.parametrize("read", [readout.channel_sum, readout.channel_mean, readout.flatten, readout.CountSketch(3)])
def test_readouts_commute_with_the_integral(rule, read):
    model = reference.ConvNet.random()
    net, x = network(model), images(model)
    inside = ipjax.layer_conductance(net, x, quadrature=RULES[rule](5), readout=read)
    whole = ipjax.layer_conductance(net, x, quadrature=RULES[rule](5))
    chex.assert_trees_all_close(inside, {name: read(value) for name, value in whole.items()}, rtol=1e-10, atol=1e-12)
    rates = ipjax.sensitivity(net, x, readout=read)
    whole = ipjax.sensitivity(net, x)
    chex.assert_trees_all_close(rates, {name: read(value) for name, value in whole.items()}, rtol=1e-10, atol=1e-12)


def test_works_inside_jit(net, x):
    @jax.jit
    def inside(net, x, target, baseline):
        values = ipjax.layer_conductance(net, x, target=target, baseline=baseline)
        return values, ipjax.completeness_gap(net, x, values, target=target, baseline=baseline)

    target, baseline = jnp.asarray([0, 2, 1]), jnp.asarray(0.3)
    values = ipjax.layer_conductance(net, x, target=target, baseline=baseline)
    gap = ipjax.completeness_gap(net, x, values, target=target, baseline=baseline)
    chex.assert_trees_all_close(inside(net, x, target, baseline), (values, gap), rtol=1e-10, atol=1e-12)


def test_arrays_known_outside_of_jit_serve_inside(net, x):
    x = jnp.asarray(x)
    target, baseline = jnp.stack([jnp.eye(3)[:BATCH]] * 2), jnp.full_like(x, 0.1)
    expected = ipjax.layer_conductance(net, x, target=target, baseline=baseline)
    inside = jax.jit(lambda net, x: ipjax.layer_conductance(net, x, target=target, baseline=baseline))(net, x)
    chex.assert_trees_all_close(inside, expected, rtol=1e-10, atol=1e-12)
    inside = jax.jit(lambda target: ipjax.layer_conductance(net, x, target=target, baseline=baseline))(target)
    chex.assert_trees_all_close(inside, expected, rtol=1e-10, atol=1e-12)
    unknown = jnp.nan * target
    with pytest.raises(ValueError, match="expected finite weights"):
        jax.jit(lambda x: ipjax.layer_conductance(net, x, target=unknown))(x)


def test_memory_does_not_grow_with_the_number_of_nodes():
    def temporary_bytes(steps, nodes_at_once):
        def conductance(net, x):
            rule = quadrature.trapezoid(steps)
            return ipjax.layer_conductance(net, x, quadrature=rule, nodes_at_once=nodes_at_once)

        model = reference.ConvNet.random()
        x = jnp.zeros((4, 65, 65, 2))
        return jax.jit(conductance).lower(network(model), x).compile().memory_analysis().temp_size_in_bytes

    few = temporary_bytes(7, nodes_at_once=4)
    assert temporary_bytes(63, nodes_at_once=4) <= 1.01 * few
    assert temporary_bytes(63, nodes_at_once=16) > 2 * few


def test_several_targets_are_each_ones_own(model):
    net, x = network(model), images(model)
    targets = [1, "predicted", "contrast", jnp.asarray([0, 2, 1]), jnp.asarray([0.5, -1.0, 2.0])]
    stacked = jnp.stack([ipjax.target_weights(net, x, target) for target in targets])
    together = ipjax.layer_conductance(net, x, target=stacked)
    gaps = ipjax.completeness_gap(net, x, together, target=stacked)
    assert tuple(together) == net.layers(x)
    for i, target in enumerate(targets):
        alone = ipjax.layer_conductance(net, x, target=target)
        chex.assert_trees_all_close({name: value[i] for name, value in together.items()}, alone, rtol=1e-10, atol=1e-12)
        gap = ipjax.completeness_gap(net, x, alone, target=target)
        chex.assert_trees_all_close({name: value[i] for name, value in gaps.items()}, gap, rtol=1e-9, atol=1e-12)
    unit = (0,) * (together[model.cuts[1]].ndim - 2)
    parts = ipjax.neuron_conductance(net, x, model.cuts[1], unit, target=stacked)
    alone = ipjax.neuron_conductance(net, x, model.cuts[1], unit, target=targets[3])
    assert parts.shape == (len(targets), *x.shape)
    chex.assert_trees_all_close(parts[3], alone, rtol=1e-10, atol=1e-12)


def test_weights_of_several_targets_are_one_target_of_many(net, x):
    stacked = jnp.stack([ipjax.target_weights(net, x, target) for target in (0, 1)])
    chex.assert_trees_all_equal(ipjax.target_weights(net, x, stacked), stacked)
    with pytest.raises(ValueError, match="conductance of 'hidden': expected 2 targets and 3 images as in x, got shape"):
        ipjax.completeness_gap(net, x, {"hidden": jnp.zeros((3, 6))}, target=stacked)
    with pytest.raises(ValueError, match="expected one that is linear in the logits, got a callable"):
        ipjax.target_weights(net, x, lambda logits: logits[:, 0])


# what a node computes


def operations_of_a_node(layers, num_targets=None):
    """Operations of a node over those of a pass forward: chunks of two nodes and of one differ by one."""
    net = ports.load("resnet18", "random")
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shape = (1, 1000) if num_targets is None else (num_targets, 1, 1000)

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    def of_chunk(num_nodes):
        def conductance(net, x, target):
            rule = quadrature.trapezoid(4 * num_nodes - 1)
            return ipjax.layer_conductance(
                net, x, layers=layers, target=target, quadrature=rule, readout=readout.channel_sum, nodes_at_once=num_nodes
            )

        return operations(conductance, net, x, jax.ShapeDtypeStruct(shape, jnp.float32))

    return (of_chunk(2) - of_chunk(1)) / operations(lambda net, x: net(x), net, x)


def test_no_gradient_of_weights_is_computed():
    assert 1.8 < operations_of_a_node(None) < 2.1  # one pass forward, one backward; weights would cost another one


def test_the_pass_backward_stops_at_the_earliest_layer_asked_for():
    assert 0.95 < operations_of_a_node(["avgpool"]) < 1.05
    assert 1.05 < operations_of_a_node(["layer3.1"]) < 0.8 * operations_of_a_node(None)


def test_targets_share_the_pass_forward():
    one, two, three = (operations_of_a_node(None, count) for count in (1, 2, 3))
    assert two - one < 0.55 * one
    assert three - two < 0.55 * one


# targets and baselines


def test_ways_to_name_a_class_agree(net, x):
    one_hot = np.eye(3)[1]
    ways = {
        "class": 1,
        "NumPy class": np.int32(1),
        "class an image": [1, 1, 1],
        "weights": one_hot,
        "weights an image": np.tile(one_hot, (BATCH, 1)),
        "callable": lambda logits: logits[:, 1],
    }
    values = {way: ipjax.layer_conductance(net, x, target=target) for way, target in ways.items()}
    for way in ways:
        chex.assert_trees_all_close(values[way], values["class"], rtol=1e-11, atol=1e-13)
    other = ipjax.layer_conductance(net, x, target=0)
    assert not np.allclose(other["hidden"], values["class"]["hidden"])


def test_classes_an_image_are_each_images_own(net, x):
    together = ipjax.layer_conductance(net, x, target=[2, 0, 1])
    for i, target in enumerate([2, 0, 1]):
        alone = ipjax.layer_conductance(net, x[i : i + 1], target=target)
        chex.assert_trees_all_close({name: value[i : i + 1] for name, value in together.items()}, alone, rtol=1e-10)


def test_predicted_is_the_class_predicted_at_the_input(net, x):
    predicted = np.argmax(net(x), axis=1)
    assert (predicted != np.argmax(net(0 * x), axis=1)).any()
    expected = ipjax.layer_conductance(net, x, target=predicted)
    chex.assert_trees_all_close(ipjax.layer_conductance(net, x, target="predicted"), expected, rtol=1e-11)
    chex.assert_trees_all_close(ipjax.layer_conductance(net, x), expected, rtol=1e-11)


def test_contrast_is_a_fixed_unit_direction(net, x):
    weights = ipjax.contrast_weights(3)
    assert np.linalg.norm(weights) == pytest.approx(1, abs=1e-6)
    assert not np.allclose(weights, ipjax.contrast_weights(3, seed=1))
    expected = ipjax.layer_conductance(net, x, target=weights)
    chex.assert_trees_all_close(ipjax.layer_conductance(net, x, target="contrast"), expected, rtol=1e-11)


def test_a_nonlinear_callable_is_integrated(net, x):
    def log_probability(logits):
        return jax.nn.log_softmax(logits)[:, 0]

    values = ipjax.layer_conductance(net, x, target=log_probability, quadrature=quadrature.trapezoid(512))
    change = log_probability(net(x)) - log_probability(net(0 * x))
    chex.assert_trees_all_close(values["logits"].sum(axis=1), change, rtol=1e-4)
    gap = ipjax.completeness_gap(net, x, values, target=log_probability)
    chex.assert_trees_all_close(gap["logits"], values["logits"].sum(axis=1) - change, rtol=1e-9, atol=1e-12)


def test_baselines_broadcast(net, x):
    expected = ipjax.layer_conductance(net, x, baseline=np.full_like(x, 0.5))
    for baseline in (0.5, np.full(5, 0.5), np.full((1, 5), 0.5)):
        chex.assert_trees_all_close(ipjax.layer_conductance(net, x, baseline=baseline), expected, rtol=1e-12)
    assert not np.allclose(ipjax.layer_conductance(net, x)["input"], expected["input"])


def test_nothing_is_conducted_from_a_baseline_equal_to_the_input(net, x):
    values = ipjax.layer_conductance(net, x, baseline=x)
    assert all((value == 0).all() for value in values.values())


# errors


def with_value(x, value):
    x = x.copy()
    x[1, 2] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_counted(net, x, value):
    message = "x: expected finite numbers, found NaN or infinity in 1 of 3 images, first [1]"
    for function in (ipjax.layer_conductance, ipjax.sensitivity):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(net, with_value(x, value))
    with pytest.raises(ValueError, match=re.escape(message)):
        ipjax.completeness_gap(net, with_value(x, value), {})
    with pytest.raises(ValueError, match=re.escape(message)):
        ipjax.neuron_conductance(net, with_value(x, value), "hidden", 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 5), np.uint8), "x: expected floating numbers, got uint8; preprocess images"),
        (np.zeros((2, 5), bool), "x: expected floating numbers, got bool"),
        (np.zeros((0, 5)), "x: expected [batch, ...] with at least one image of at least one pixel, got shape [0, 5]"),
        (np.zeros(5), "x: expected [batch, ...] with at least one image of at least one pixel, got shape [5]"),
        (np.float64(0), "x: expected [batch, ...] with at least one image of at least one pixel, got shape []"),
    ],
)
def test_bad_inputs(net, bad, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ipjax.layer_conductance(net, bad)


def test_inputs_of_another_rank_than_the_network_takes():
    net = ipjax.Network({}, lambda params, x, tap: x.sum(axis=(1, 2)), input_shape=(None, None, 3))
    for shape in [(2, 8, 3), (2, 8, 8, 1), (8, 8, 3)]:
        message = f"x: expected shape [batch, any, any, 3] (channels last), got {list(shape)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            ipjax.layer_conductance(net, np.zeros(shape))


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (np.zeros(4), "baseline: expected a number or an array that broadcasts to [3, 5], got shape [4]"),
        (np.zeros((1, 3, 5)), "baseline: expected a number or an array that broadcasts to [3, 5], got shape [1, 3, 5]"),
        (np.nan, "baseline: expected finite numbers, found NaN or infinity"),
        (np.full(5, np.inf), "baseline: expected finite numbers, found NaN or infinity"),
    ],
)
def test_bad_baselines(net, x, baseline, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ipjax.layer_conductance(net, x, baseline=baseline)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "target: expected classes from 0 to 2, got from 3 to 3"),
        (-1, "target: expected classes from 0 to 2, got from -1 to -1"),
        ([0, 1, 7], "target: expected classes from 0 to 2, got from 0 to 7"),
        ([0, 1], "target: expected one class or 3 classes, one an image, got shape [2]"),
        ([[0, 1, 2]], "target: expected one class or 3 classes, one an image, got shape [1, 3]"),
        (np.zeros(4), "[3], [3, 3] or [targets, 3, 3] on the logits, or int classes, got float64 of shape [4]"),
        (np.zeros((2, 3)), "got float64 of shape [2, 3]"),
        (np.zeros((0, 3, 3)), "got float64 of shape [0, 3, 3]"),
        (np.zeros((2, 1, 3)), "got float64 of shape [2, 1, 3]"),
        (True, "got bool of shape []"),
        (1.0, "got float64 of shape []"),
        (np.asarray([0, np.nan, 1]), "target: expected finite weights on the logits, found NaN or infinity"),
        ("true", 'target: expected "predicted", "contrast", a class, an array or a callable, got \'true\''),
        (lambda logits: logits, "target: expected a callable from logits [3, 3] to [3], it returns [3, 3]"),
        (lambda logits: logits.sum(), "target: expected a callable from logits [3, 3] to [3], it returns []"),
    ],
    ids=lambda value: None if callable(value) else str(value),
)  # fmt: skip
def test_bad_targets(net, x, target, message):
    for call in (ipjax.layer_conductance, lambda *a, **k: ipjax.completeness_gap(*a, {}, **k)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(net, x, target=target)


def test_logits_must_be_one_row_an_image(x):
    net = ipjax.from_function(lambda params, x, tap: x.sum(axis=1), {})
    with pytest.raises(ValueError, match=re.escape("network: expected logits [3, classes], got shape [3]")):
        ipjax.layer_conductance(net, x)


def test_nodes_at_once_below_one(net, x):
    with pytest.raises(ValueError, match="nodes_at_once: expected an integer of at least 1, got 0"):
        ipjax.layer_conductance(net, x, nodes_at_once=0)


def test_unknown_layer(net, x):
    for call in (ipjax.layer_conductance, ipjax.sensitivity):
        with pytest.raises(KeyError, match=r"no layer 'hiden'; .* are 'hidden'"):
            call(net, x, layers=["hiden"])
    with pytest.raises(KeyError, match=r"no layer 'hiden'; .* are 'hidden'"):
        ipjax.neuron_conductance(net, x, "hiden", 0)


@pytest.mark.parametrize("unit", [6, -1, (0, 0), ()])
def test_units_outside_the_layer(net, x, unit):
    message = f"unit: expected an index into layer 'hidden' of shape [6], got {unit}"
    with pytest.raises(ValueError, match=re.escape(message)):
        ipjax.neuron_conductance(net, x, "hidden", unit)


def test_gap_of_another_batch(net, x):
    with pytest.raises(ValueError, match="conductance of 'hidden': expected 3 images as in x, got shape"):
        ipjax.completeness_gap(net, x, {"hidden": jnp.zeros((2, 6))})
