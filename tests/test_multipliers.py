"""Multipliers of steps of the path: DeepLIFT's for one step, the change of the output accounted for, conductance for many."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import PartitionSpec as P

import ipjax
import ports
from ipjax.models.convolution import max_pool
from ipjax.multipliers import over_steps
from ipjax.quadrature import rescale, trapezoid
from ipjax.tolerance import relative_error
from tests.torch_reference import to_numpy, torch


def of_function(function, *shapes, seed=0):
    """A network from a function of weights and a value, tapped before it as `hidden` and once more after it."""
    rng = np.random.default_rng(seed)
    weights = [jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32) for shape in shapes]

    def apply(weights, x, tap):
        return tap("bent", function(weights, tap("hidden", x @ weights[0])))

    return ipjax.from_function(apply, weights)


def batch(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


BENT = {
    "relu": jax.nn.relu,
    "maximum with what does not change": lambda h: jnp.maximum(0.3, h),
    "minimum": lambda h: jnp.minimum(h, 0.2),
    "maximum of two": lambda h: jnp.maximum(h, h[:, ::-1]),
    "minimum of two": lambda h: jnp.minimum(h, 2 * h[:, ::-1]),
    "where": lambda h: jnp.where(h > 0, h, 0.1 * h),
    "where, the other way": lambda h: jnp.where(h[:, ::-1] < h, h[:, ::-1], h),
    "leaky relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "hard tanh": jax.nn.hard_tanh,
    "pool": lambda h: max_pool(h.reshape(-1, 4, 4, 2), 2, 2).reshape(-1, 8),
    "window": lambda h: linen.max_pool(h.reshape(-1, 4, 4, 2), (2, 3), (2, 1), padding="SAME").reshape(len(h), -1),
    "absolute": jnp.abs,
    "affine": lambda h: jnp.concatenate([h.reshape(-1, 4, 8)[:, 1], jnp.cumsum(h, axis=1)], axis=1) / 3 - 1,
    "average pool": lambda h: linen.avg_pool(jax.nn.relu(h).reshape(-1, 4, 4, 2), (2, 2), (2, 2)).reshape(len(h), -1),
    "stacked": lambda h: jnp.stack([jax.nn.relu(h), jnp.tile(h[:, :16], 2)], axis=1).reshape(len(h), -1),
    "updated": lambda h: jax.lax.dynamic_update_slice(h, jax.nn.relu(h[:, :3]), (0, 2)),
    "transform": lambda h: jnp.fft.fft(jax.nn.relu(h)).real,
    "remat": jax.checkpoint(lambda h: 2 * jax.nn.relu(h)),
}


@pytest.mark.parametrize("bent", BENT)
def test_the_change_is_accounted_for_by_any_number_of_steps(bent):
    net = of_function(lambda w, h: BENT[bent](h) @ jnp.ones((BENT[bent](h).shape[1], 3)) * jnp.arange(1, 4), (6, 32))
    x = batch(5, 6)
    values = {steps: ipjax.layer_conductance(net, x, target=1, quadrature=rescale(steps)) for steps in (1, 2, 5)}
    for conductance in values.values():
        for gap in ipjax.completeness_gap(net, x, conductance, target=1).values():
            np.testing.assert_allclose(gap, 0, atol=2e-4)


@jax.custom_vjp
def clipped(h):
    return jnp.clip(h, -1, 1)


@jax.custom_jvp
def clipped_too(h):
    return jnp.clip(h, -1, 1)


clipped.defvjp(lambda h: (clipped(h), None), lambda _, cotangent: (cotangent,))
clipped_too.defjvps(lambda tangent, _, h: tangent)

OTHERS = {
    "tanh": jnp.tanh,
    "exp": jax.nn.softmax,
    "erf": lambda h: jax.nn.gelu(h, approximate=False),
    "logistic": jax.nn.silu,
    "expm1": jax.nn.elu,
    "mul": lambda h: h * h[:, ::-1],
    "square": lambda h: (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-3),
    "dot_general": lambda h: jnp.einsum("bi,bj->bij", h, h).reshape(len(h), -1),
    "div": lambda h: 1 / (1 + jnp.abs(h)),
    "scan": lambda h: jax.lax.fori_loop(0, 3, lambda _, h: jax.nn.relu(h), h),
    "while": lambda h: jax.lax.while_loop(lambda h: h.sum() < 3, lambda h: h + 1, jax.lax.stop_gradient(h)),
    "stop_gradient": lambda h: jnp.where(h > 0, h, jax.lax.stop_gradient(h)),
    "reduce_max": lambda h: h.reshape(-1, 8, 4).max(1),
    "reduce_window_max": lambda h: linen.max_pool(h[..., None], (32,)),
    "gather": lambda h: jnp.arange(64.0).reshape(32, 2)[jnp.argmax(h, axis=1)],
    "custom_vjp_call": clipped,
    "custom_jvp_call": clipped_too,
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_bends_otherwise_is_refused(other):
    net = of_function(lambda _, h: OTHERS[other](h).reshape(len(h), -1), (6, 32))
    with pytest.raises(
        ValueError, match=r"rescale rule is for networks of affine maps and choices .* use ipjax.quadrature.trap"
    ):
        ipjax.layer_conductance(net, batch(4, 6), target=0, quadrature=rescale(4))


def test_a_kink_counts_by_the_share_of_the_step_behind_it():
    net = ipjax.from_function(lambda _, x, tap: tap("bent", jax.nn.relu(tap("hidden", x - 1))), None)
    for end, steps in itertools.product((1.5, 3.0, 40.0), (1, 2, 3)):
        value = ipjax.layer_conductance(net, jnp.array([[end]]), target=0, quadrature=rescale(steps))
        np.testing.assert_allclose(value["hidden"], [[end - 1]], rtol=1e-5)
        np.testing.assert_allclose(value["input"], [[end - 1]], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_one_step_is_captums_deeplift(steps):
    from captum.attr import LayerDeepLift

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2), torch.nn.ReLU()]
    model = torch.nn.Sequential(
        *layers, torch.nn.Flatten(), torch.nn.Linear(8 * 9, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5)
    )
    kernels = [(to_numpy(layers[i].weight.detach()), layers[i].bias.detach().numpy()) for i in (0, 2)]
    matrices = [(model[i].weight.detach().numpy().T, model[i].bias.detach().numpy()) for i in (5, 7)]

    def apply(params, x, tap):
        (k1, b1), (k2, b2), (w1, c1), (w2, c2) = params

        def convolve(x, k, stride, pad):
            numbers = ("NHWC", "OHWI", "NHWC")
            return jax.lax.conv_general_dilated(x, k, (stride, stride), pad, dimension_numbers=numbers)

        x = tap("1", jax.nn.relu(tap("0", convolve(x, k1, 1, "SAME") + b1)))
        x = tap("3", jax.nn.relu(tap("2", convolve(x, k2, 2, "VALID") + b2)))
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        x = tap("6", jax.nn.relu(tap("5", x @ w1 + c1)))
        return tap("7", x @ w2 + c2)

    net = ipjax.from_function(apply, [*kernels, *matrices])
    ends = np.random.default_rng(0).standard_normal((steps + 1, 2, 3, 7, 7)).astype(np.float32)
    ends = np.linspace(0 * ends[0], ends[0], steps + 1)  # of the steps
    ours = ipjax.layer_conductance(
        net, ends[-1].transpose(0, 2, 3, 1), layers=["0", "2", "3", "5"], target=3, quadrature=rescale(steps)
    )
    for name, value in ours.items():
        deeplift = LayerDeepLift(model, model[int(name)])
        parts = [deeplift.attribute(torch.tensor(b), torch.tensor(a), target=3).detach() for a, b in itertools.pairwise(ends)]
        np.testing.assert_allclose(value, to_numpy(sum(parts)), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def resnet():
    return ports.load("resnet18", "random", width=8, num_classes=10)


@pytest.fixture(scope="module")
def images():
    return batch(3, 32, 32, 3)


def test_in_a_resnet_it_converges_faster_than_the_trapezoid_rule(resnet, images):
    def conductance(rule):
        return ipjax.layer_conductance(resnet, images, target="contrast", baseline=images[::-1], quadrature=rule)

    exact = conductance(trapezoid(1024))

    def error(rule):
        values = conductance(rule)
        return np.mean([relative_error(values[name], exact[name]) for name in exact if name != "avgpool"])

    assert error(rescale(64)) < 0.4 * error(trapezoid(64))
    assert error(rescale(64)) < error(rescale(16)) / 5  # a rule of first order: a quarter


def test_nodes_at_once_do_not_matter(resnet, images):
    values = [
        ipjax.layer_conductance(resnet, images, target=1, quadrature=rescale(7), nodes_at_once=nodes)
        for nodes in (1, 2, 3, 5, 8, 20)
    ]
    for other in values[1:]:
        chex.assert_trees_all_close(other, values[0], rtol=2e-3, atol=2e-4)
    gap = ipjax.completeness_gap(resnet, images, {name: values[0][name] for name in ("maxpool", "layer2.1")}, target=1)
    for value in gap.values():
        np.testing.assert_allclose(value, 0, atol=1e-3)


def test_several_targets(resnet, images):
    weights = jnp.stack([ipjax.target_weights(resnet, images, target) for target in ("predicted", "contrast", 3)])
    together = ipjax.layer_conductance(resnet, images, target=weights, quadrature=rescale(4))
    for i, target in enumerate(("predicted", "contrast", 3)):
        alone = ipjax.layer_conductance(resnet, images, target=target, quadrature=rescale(4))
        chex.assert_trees_all_close({name: value[i] for name, value in together.items()}, alone, rtol=2e-3, atol=2e-4)


def test_a_callable_target(resnet, images):
    target = lambda logits: jnp.maximum(logits[:, 2], logits[:, 3])  # noqa: E731
    conductance = ipjax.layer_conductance(resnet, images, layers=["maxpool"], target=target, quadrature=rescale(2))
    gap = ipjax.completeness_gap(resnet, images, conductance, target=target)
    np.testing.assert_allclose(gap["maxpool"], 0, atol=1e-4)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_models_of_others(framework):
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(8, (3, 3), name="conv")(x))
            x = linen.max_pool(x, (2, 2), (2, 2))
            x = linen.relu(linen.Dense(16, name="dense")(x.reshape(len(x), -1)))
            return linen.Dense(4, name="last")(x)

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.last = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.leaky_relu(self.norm(self.conv(x))).mean((1, 2)))

    x = batch(2, 8, 8, 3)
    if framework == "linen":
        net = ipjax.from_linen(Linen(), Linen().init(jax.random.key(0), x))
        layer, atol = "dense", 1e-5
    else:
        net = ipjax.from_nnx(Nnx(nnx.Rngs(0)))
        layer, atol = "conv", 1e-5
    conductance = ipjax.layer_conductance(net, x, layers=[layer], target=1, quadrature=rescale(2))
    np.testing.assert_allclose(ipjax.completeness_gap(net, x, conductance, target=1)[layer], 0, atol=atol)


def test_inside_jit_and_shard_map(resnet, images):
    def conductance(x):
        return ipjax.layer_conductance(resnet, x, layers=["layer1.0"], target=1, quadrature=rescale(3))["layer1.0"]

    plain = conductance(images)
    np.testing.assert_allclose(jax.jit(conductance)(images), plain, rtol=2e-3, atol=2e-4)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.jit(jax.shard_map(conductance, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    np.testing.assert_allclose(spread(images), plain, rtol=2e-3, atol=2e-4)


def test_in_half_precision_as_in_single(resnet, images):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, resnet)
    layers, rule = ["maxpool", "layer2.0"], rescale(4)
    values = ipjax.layer_conductance(half, images.astype(jnp.bfloat16), layers=layers, target=1, quadrature=rule)
    single = ipjax.layer_conductance(resnet, images, layers=layers, target=1, quadrature=rule)
    for name in layers:
        assert values[name].dtype == jnp.float32
        assert relative_error(values[name], single[name]) < 0.2


def test_what_is_not_finite_is_refused():
    broken = ipjax.from_function(lambda _, x, tap: jnp.maximum(0, tap("much", x * jnp.inf)), None)
    with pytest.raises(ValueError, match="not finite"):
        ipjax.layer_conductance(broken, jnp.ones((2, 3)), target=1, quadrature=rescale(4))


def test_where_without_a_number_on_the_other_side():
    net = ipjax.from_function(lambda _, x, tap: tap("root", jax.nn.relu(jnp.where(x > -1, x, -jnp.inf))), None)
    value = ipjax.layer_conductance(
        net, jnp.array([[0.5, 2.0], [3.0, -4.0]]), layers=["input"], target=1, quadrature=rescale(8)
    )
    np.testing.assert_allclose(value["input"], [[0, 2], [0, 0]], atol=1e-6)


def test_without_neighbours_it_is_the_plain_gradient():
    x = batch(6)
    for function in (lambda x: jnp.sum(3 * jnp.maximum(x, 0.1)), lambda x: jnp.sum(jnp.abs(x) - jnp.where(x > 1, x, 1))):
        np.testing.assert_allclose(jax.grad(lambda x, f=function: over_steps(f, x))(x), jax.grad(function)(x), rtol=1e-6)
