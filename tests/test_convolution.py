"""The library's convolution and all its derivatives against JAX's own."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from torch_reference import to_numpy, to_torch, torch

from ipjax.models.convolution import convolution, max_pool

slow = pytest.mark.slow
SETTINGS = [
    # kernel, strides, padding; slow are those that go the way of another one
    pytest.param(((1, 1), (1, 1), ((0, 0), (0, 0))), marks=slow),
    ((1, 1), (2, 2), ((0, 0), (0, 0))),
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    pytest.param(((7, 7), (1, 1), ((3, 3), (3, 3))), marks=slow),
    ((7, 7), (2, 2), ((3, 3), (3, 3))),
    pytest.param(((3, 3), (2, 2), ((0, 0), (0, 0))), marks=slow),
    ((3, 2), (1, 1), ((2, 0), (0, 1))),
    ((3, 1), (1, 2), ((2, 0), (1, 3))),
    ((2, 3), (2, 1), ((1, 0), (0, 2))),
]


SIDES = [(24, 25), (2, 1)]  # of the image; few pixels take a matrix


@pytest.fixture(params=SETTINGS, ids=str)
def setting(request):
    return request.param


@pytest.fixture(params=SIDES, ids=str)
def case(setting, request):
    """Both convolutions as functions of image and kernel, in float64, with an image, a kernel and tangents of both."""
    size, strides, padding = setting
    if any(side + sum(pad) < length for side, pad, length in zip(request.param, padding, size, strict=True)):
        pytest.skip("the kernel does not fit")
    rng = np.random.default_rng(0)
    channels = 3 if size == (7, 7) else 5  # few channels at stride 2 go another way
    x, dx = rng.standard_normal((2, 3, *request.param, channels))
    kernel, dkernel = rng.standard_normal((2, *size, channels, 5))

    def ours(x, kernel):
        return convolution(x, kernel, strides, padding, precision="highest")

    def jaxs(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions, precision="highest")

    with jax.enable_x64(True):
        yield ours, jaxs, tuple(map(jnp.asarray, (x, kernel))), tuple(map(jnp.asarray, (dx, dkernel)))


def weighted(function):
    """A scalar of the result that weighs each of its elements differently."""
    return lambda *arguments: jnp.sum(jnp.sin(function(*arguments)))


def agree(ours, jaxs, *arguments):
    expected = jaxs(*arguments)
    chex.assert_trees_all_close(ours(*arguments), expected, rtol=1e-10, atol=1e-11)
    chex.assert_trees_all_close(jax.jit(ours)(*arguments), expected, rtol=1e-10, atol=1e-11)


def test_value(case):
    ours, jaxs, primals, _ = case
    agree(ours, jaxs, *primals)


@pytest.mark.parametrize("argument", [0, 1, (0, 1)], ids=["image", "kernel", "both"])
def test_gradient(case, argument):
    ours, jaxs, primals, _ = case
    agree(jax.grad(weighted(ours), argument), jax.grad(weighted(jaxs), argument), *primals)


def test_jvp(case):
    ours, jaxs, primals, tangents = case
    agree(lambda *t: jax.jvp(ours, primals, t)[1], lambda *t: jax.jvp(jaxs, primals, t)[1], *tangents)
    (x, kernel), (dx, dkernel) = primals, tangents
    agree(
        lambda dx: jax.jvp(lambda x: ours(x, kernel), (x,), (dx,))[1],
        lambda dx: jax.jvp(lambda x: jaxs(x, kernel), (x,), (dx,))[1],
        dx,
    )
    agree(
        lambda dkernel: jax.jvp(lambda kernel: ours(x, kernel), (kernel,), (dkernel,))[1],
        lambda dkernel: jax.jvp(lambda kernel: jaxs(x, kernel), (kernel,), (dkernel,))[1],
        dkernel,
    )


def test_second_derivative(case):
    ours, jaxs, primals, tangents = case

    def along(function):
        return lambda x, kernel: jax.jvp(jax.grad(weighted(function), (0, 1)), (x, kernel), tangents)[1]

    agree(along(ours), along(jaxs), *primals)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=["images", "kernels", "both"])
def test_vmap(case, axes):
    ours, jaxs, primals, tangents = case
    stacked = [
        value if axis is None else jnp.stack([value, tangent])
        for value, tangent, axis in zip(primals, tangents, axes, strict=True)
    ]
    with_gradient = (jax.value_and_grad(weighted(function), (0, 1)) for function in (ours, jaxs))
    agree(*(jax.vmap(function, axes) for function in with_gradient), *stacked)


def test_inside_scan(case):
    ours, jaxs, (x, kernel), (dx, _) = case

    def scanned(function):
        def body(total, x):
            return total + jax.grad(weighted(function))(x, kernel), function(x, kernel)

        return lambda images: lax.scan(body, jnp.zeros_like(x), images)

    agree(scanned(ours), scanned(jaxs), jnp.stack([x, dx, x + dx]))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices' convolutions stay as they are")
def test_on_a_cpu_outputs_are_taller_than_inputs_forward_and_backward():
    def both(x, kernel):
        y, pull_back = jax.vjp(lambda x: convolution(x, kernel, (1, 1), ((1, 1), (1, 1))), x)
        return y, pull_back(y)

    lowered = jax.jit(both).lower(jnp.ones((1, 24, 24, 5)), jnp.ones((3, 3, 5, 5))).as_text()
    heights = re.findall(r"convolution\(.*\(tensor<1x(\d+)x24x5xf32>.*-> tensor<1x(\d+)x24x5xf32>", lowered)
    assert heights == 2 * [("24", "25")]


def test_padding_of_a_1x1_kernel():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 3))
    assert convolution(x, kernel, (1, 1), ((1, 1), (1, 1))).shape == (1, 6, 6, 3)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (3, 3, 0)])
@pytest.mark.parametrize("sides", [(8, 8), (7, 10), (3, 4)])
def test_max_pool_equals_torchs_where_pixels_tie_too(size, stride, padding, sides):
    x = np.random.default_rng(0).integers(-2, 3, (2, *sides, 3)).astype(np.float32)
    of_torch = to_torch(x).requires_grad_(True)
    expected = torch.nn.functional.max_pool2d(of_torch, size, stride, padding)
    weights = np.random.default_rng(1).standard_normal(to_numpy(expected.detach()).shape).astype(np.float32)
    (gradient,) = torch.autograd.grad((expected * to_torch(weights)).sum(), of_torch)
    value, pull_back = jax.vjp(lambda x: max_pool(x, size, stride, padding), jnp.asarray(x))
    chex.assert_trees_all_equal(value, jnp.asarray(to_numpy(expected.detach())))
    chex.assert_trees_all_close(pull_back(jnp.asarray(weights))[0], to_numpy(gradient), rtol=1e-6)
