"""Two-dimensional convolutions whose forward and input-gradient passes are both fast, also inside loops and on CPU.

XLA's CPU backend brings a convolution into the form its fast kernels take only outside of loops. JAX's own gradient of a
convolution is not in that form, so inside a `lax.scan` (where conductance runs it) it is several times slower. Here the
derivative is stated such that its transpose, the input gradient, comes out in that form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Int

_FEW_CHANNELS = 4
_ROWS_FOR_ONE = 7  # of an output, at least, for each that is computed in vain
_SMALL = 2**18  # entries of a matrix that stands for a convolution, whatever the kernel's own size
Padding = tuple[tuple[int, int], tuple[int, int]]


def convolution(
    x: Float[Array, "batch h w channels"],
    kernel: Float[Array, "kh kw channels features"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: lax.PrecisionLike = None,
    **kwargs: Any,
) -> Float[Array, "batch h w features"]:
    """Undilated convolution in one group with explicit padding; fits `nnx.Conv(conv_general_dilated=...)`.

    A 1x1 kernel is a matrix product over channels: on CPU much faster than XLA's convolution. So is any kernel on an image
    of few pixels, written as the matrix from all units of the input to all of the output.
    """
    if kwargs.get("feature_group_count", 1) != 1 or any(
        {*(kwargs.get(f"{side}_dilation") or (1,))} != {1} for side in ("lhs", "rhs")
    ):
        raise ValueError(f"convolution: expected one group and no dilation, got {kwargs}")
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            "convolution: expected x [batch, h, w, channels] and kernel [kh, kw, channels, features], got "
            f"{list(x.shape)} and {list(kernel.shape)}"
        )
    if kernel.shape[:2] == (1, 1) and not np.any(padding):
        return jnp.matmul(x[:, :: strides[0], :: strides[1]], kernel[0, 0], precision=precision)
    (top, bottom), (left, right) = padding
    rows = _places(x.shape[1], kernel.shape[0], strides[0], (top, bottom))
    columns = _places(x.shape[2], kernel.shape[1], strides[1], (left, right))
    size = rows.size * columns.size * kernel.shape[2] * kernel.shape[3]  # of the whole matrix
    if 0 < size <= max(2 * kernel.size, _SMALL):
        # The kernel's entry for each pixel of the input and of the output; behind its end, zeros for those that do not touch.
        entries = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))[rows[:, None, :, None], columns[None, :, None, :]]
        matrix = entries.transpose(0, 1, 4, 2, 3, 5).reshape(math.prod(x.shape[1:]), -1)
        y = jnp.matmul(x.reshape(len(x), len(matrix)), matrix, precision=precision)
        return y.reshape(len(x), rows.shape[1], columns.shape[1], kernel.shape[3])
    if (strides[0], strides[1]) == (2, 2) and kernel.shape[2] <= _FEW_CHANNELS and min(kernel.shape[:2]) > 2:
        return _in_quarters(x, kernel, ((top, bottom), (left, right)), precision)
    return _convolve(x, kernel, (strides[0], strides[1]), ((top, bottom), (left, right)), precision)


def max_pool(x: Float[Array, "batch h w channels"], size: int, stride: int, padding: int = 0) -> Array:
    """The largest of each `size` x `size` pixels, `[batch, rows, columns, channels]`.

    The gradient goes to the first of equals, as torch's.
    """
    around = (padding, padding)
    return window_max(x, (1, size, size, 1), (1, stride, stride, 1), ((0, 0), around, around, (0, 0)))


def window_max(x: Array, window: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> Array:
    """The largest of each window, which has a size, a stride and a padding along every axis.

    Written as comparisons, whose gradient XLA's CPU backend computes many times faster than that of a reduced window.
    """
    lowest = jnp.full((), -jnp.inf, x.dtype)
    for axis in reversed(range(x.ndim)):  # within rows first, so that the first of equals is that of a row-wise search
        size, stride = window[axis], strides[axis]
        x = lax.pad(x, lowest, [(*padding[i], 0) if i == axis else (0, 0, 0) for i in range(x.ndim)])
        end = stride * ((x.shape[axis] - size) // stride) + 1
        largest, *others = (lax.slice_in_dim(x, k, k + end, stride, axis) for k in range(size))
        for other in others:
            largest = jnp.where(other > largest, other, largest)
        x = largest
    return x


def _in_quarters(x: Array, kernel: Array, padding: Padding, precision: lax.PrecisionLike) -> Array:
    """Of stride 2: each 2x2 pixels become channels of one, on which the stride is 1.

    On CPU the gradient of an image with few channels is several times faster so.
    """
    outputs = [(x.shape[i + 1] + sum(padding[i]) - kernel.shape[i]) // 2 + 1 for i in (0, 1)]
    halves = [-(-size // 2) for size in kernel.shape[:2]]
    ends = [
        2 * (number + half - 1) - x.shape[i + 1] - padding[i][0]
        for i, (number, half) in enumerate(zip(outputs, halves, strict=True))
    ]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (padding[0][0], ends[0], 0), (padding[1][0], ends[1], 0), (0, 0, 0)))
    kernel = jnp.pad(kernel, [(0, 2 * half - size) for half, size in zip(halves, kernel.shape, strict=False)] + [(0, 0)] * 2)
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = kernel.reshape(halves[0], 2, halves[1], 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    x, kernel = x.reshape(*x.shape[:3], -1), kernel.reshape(*halves, 4 * channels, -1)
    return _convolve(x, kernel, (1, 1), ((0, 0), (0, 0)), precision)


def _places(pixels: int, size: int, stride: int, padding: tuple[int, int]) -> Int[np.ndarray, "inputs outputs"]:
    """Along an axis, the place in a kernel of `size` at which an output meets an input pixel; `size` where they do not meet."""
    outputs = max(0, (pixels + sum(padding) - size) // stride + 1)
    place = np.arange(pixels)[:, None] - stride * np.arange(outputs) + padding[0]
    return np.where((place >= 0) & (place < size), place, size)


def _plain(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Padding,
    precision: lax.PrecisionLike,
    layout: str = "HWIO",
) -> Array:
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", layout, "NHWC"), precision=precision
    )


def _rows_to_add(inputs: int, outputs: int, strides: tuple[int, int]) -> int:
    """How many rows make a convolution's output taller than its input, if they are few and the device is a CPU.

    XLA's CPU backend gives convolutions to YNNPACK, but those whose outputs are larger than their inputs to Eigen, which is
    faster.
    """
    rows = inputs + 1 - outputs
    return rows if jax.default_backend() == "cpu" and strides == (1, 1) and 0 < rows <= outputs // _ROWS_FOR_ONE else 0


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding, precision: lax.PrecisionLike) -> Array:
    (top, bottom), sides = padding
    outputs = (x.shape[1] + top + bottom - kernel.shape[0]) // strides[0] + 1
    rows = _rows_to_add(x.shape[1], outputs, strides)
    return _plain(x, kernel, strides, ((top, bottom + rows), sides), precision)[:, :outputs]


@partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    strides: tuple[int, int], padding: Padding, precision: lax.PrecisionLike, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    y = _convolve(x, kernel, strides, padding, precision)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):  # the transpose of this layout is the fast one
        # Transposing flips the kernel. Flipped here already, behind a barrier, it cancels, and XLA flips once outside of loops.
        flipped = lax.optimization_barrier(kernel.transpose(0, 1, 3, 2)[::-1, ::-1])
        rows = _rows_to_add(y.shape[1], x.shape[1], strides)  # of the transpose, whose output is the input
        dx, ((top, bottom), sides) = jnp.pad(dx, ((0, 0), (0, rows), (0, 0), (0, 0))), padding
        dy += _plain(dx, flipped[::-1, ::-1], strides, ((top, bottom - rows), sides), precision, layout="HWOI")
    if not isinstance(dkernel, SymbolicZero):
        dy += _plain(x, dkernel, strides, padding, precision)
    return y, dy
