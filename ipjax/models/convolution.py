"""Two-dimensional convolutions whose forward and input-gradient passes are both fast, also inside loops and on CPU.

XLA's CPU backend brings a convolution into the form its fast kernels take only outside of loops. JAX's own gradient of a
convolution is not in that form, so inside a `lax.scan` (where conductance runs it) it is several times slower. Here the
derivative is stated such that its transpose, the input gradient, comes out in that form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

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

    A 1x1 kernel is a matrix product over channels: on CPU much faster than XLA's convolution.
    """
    if kwargs.get("feature_group_count", 1) != 1 or any(
        {*(kwargs.get(f"{side}_dilation") or (1,))} != {1} for side in ("lhs", "rhs")
    ):
        raise ValueError(f"convolution: expected one group and no dilation, got {kwargs}")
    if kernel.shape[:2] == (1, 1) and not np.any(padding):
        return jnp.matmul(x[:, :: strides[0], :: strides[1]], kernel[0, 0], precision=precision)
    (top, bottom), (left, right) = padding
    return _convolve(x, kernel, (strides[0], strides[1]), ((top, bottom), (left, right)), precision)


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


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding, precision: lax.PrecisionLike) -> Array:
    return _plain(x, kernel, strides, padding, precision)


@partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    strides: tuple[int, int], padding: Padding, precision: lax.PrecisionLike, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    y = _plain(x, kernel, strides, padding, precision)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):  # the transpose of this layout is the fast one
        # Transposing flips the kernel. Flipped here already, behind a barrier, it cancels, and XLA flips once outside of loops.
        flipped = lax.optimization_barrier(kernel.transpose(0, 1, 3, 2)[::-1, ::-1])
        dy += _plain(dx, flipped[::-1, ::-1], strides, padding, precision, layout="HWOI")
    if not isinstance(dkernel, SymbolicZero):
        dy += _plain(x, dkernel, strides, padding, precision)
    return y, dy
