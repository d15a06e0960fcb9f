"""Binning: plug-in information of a layer's discretised codes.

The estimator of the first information planes (Shwartz-Ziv and Tishby 2017, arXiv:1703.00810), with the bias correction of
Miller 1955. Wide layers saturate it, which the estimate says.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from ipjax.estimators.base import Estimate, Labels, plug_in_entropy, pytree_settings

_MOST_BINS = 2**16  # beyond, cells are finer than single precision and tables of units against labels too large
_FEW_BINS = 128  # up to here comparing with every edge is faster than searching, and holds no indices


@pytree_settings
class Binned:
    """I(T; Y) = H(T) + H(Y) - H(T, Y) of codes T: every feature is cut into `num_bins`, and a sample's code is the whole row.

    With every sample its own label this is H(T), the plane's I(X; T). A floating y [n, dy] is binned alike.

    **Settings:**

    - `num_bins`: cells a feature, with the same edges for all features of a layer.
    - `edges`: `"uniform"` from the smallest to the largest value of the layer, or `"quantile"`, equally filled.
    - `miller_madow`: adds (occupied cells - 1) / 2n to each entropy.
    - `code`: `"layer"`, the whole row; or `"unit"`: the mean over the features that vary of what each one's cell alone tells,
        which does not saturate with width, and leaves out what features tell together. Needs labels.

    `lower` and `upper` are the smaller and larger of the plug-in and the Miller-Madow value. Ceiling: the labels' entropy
    (ln n where every sample is its own label, or y is floating), for single units not above ln `num_bins`; the Miller-Madow
    value may exceed it. Holds where n is many times the number of occupied codes; with more than a few features all codes
    of a layer are unique and the value is the ceiling. Few cells lose information: ten quantile cells a side see .372 of a
    normal pair's .413 nats. Cost: n d + n log n.
    """

    num_bins: int = field(default=30, metadata={"static": True})
    edges: Literal["uniform", "quantile"] = field(default="uniform", metadata={"static": True})
    miller_madow: bool = field(default=False, metadata={"static": True})
    code: Literal["layer", "unit"] = field(default="layer", metadata={"static": True})

    def __post_init__(self):
        if not 2 <= self.num_bins <= _MOST_BINS:
            raise ValueError(f"num_bins: expected from 2 to {_MOST_BINS}, got {self.num_bins}")
        if self.edges not in ("uniform", "quantile"):
            raise ValueError(f'edges: expected "uniform" or "quantile", got {self.edges!r}')
        if self.code not in ("layer", "unit"):
            raise ValueError(f'code: expected "layer" or "unit", got {self.code!r}')

    def __call__(self, x: Float[Array, "n dx"], y: Labels | Array, key: Array) -> Estimate:
        del key
        x_codes = codes(x, self.num_bins, self.edges)
        if self.code == "unit":
            if not isinstance(y, Labels):
                raise ValueError('Binned: code="unit" expected integer labels [n], got floating y; use code="layer"')
            pairs, ceiling = _by_unit(x_codes, y, self.num_bins), jnp.minimum(y.entropy(), math.log(self.num_bins))
            varies = jnp.any(x != x[0], axis=0)
            plug_in, corrected = (jnp.sum(jnp.where(varies, pair, 0)) / jnp.maximum(jnp.sum(varies), 1) for pair in pairs)
        elif isinstance(y, Labels):
            (plug_in, corrected), ceiling = _by_layer(x_codes, y.values[:, None]), y.entropy()
        else:
            (plug_in, corrected), ceiling = _by_layer(x_codes, codes(y, self.num_bins, self.edges)), jnp.log(float(len(y)))
        value = corrected if self.miller_madow else plug_in
        return Estimate(value, jnp.minimum(plug_in, corrected), jnp.maximum(plug_in, corrected), ceiling)


def _by_layer(x_codes: Int[Array, "n dx"], y_codes: Int[Array, "n dy"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Plug-in and Miller-Madow information of two sets of row codes."""
    of_x, of_y = hashes(x_codes, 0), hashes(y_codes, 1)
    return _information(*map(hash_counts, (of_x, of_y, of_x + of_y)))  # a sum is the hash of rows side by side


def _by_unit(x_codes: Int[Array, "n d"], y: Labels, num_bins: int) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The same of each feature's codes and the labels."""

    def of_unit(cells: Int[Array, " n"]) -> tuple[Array, Array]:
        of_x = jnp.zeros(num_bins).at[cells].add(1.0)
        joint = y.counts() if y.distinct else jnp.zeros((num_bins, y.num_classes)).at[cells, y.values].add(1.0)
        return _information(of_x, y.counts(), joint.ravel())

    return jax.lax.map(of_unit, x_codes.T)


def _information(
    of_x: Float[Array, " a"], of_y: Float[Array, " b"], joint: Float[Array, " c"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Plug-in and Miller-Madow information from how often cells occur."""
    plug_in = plug_in_entropy(of_x) + plug_in_entropy(of_y) - plug_in_entropy(joint)
    occupied_x, occupied_y, occupied = (jnp.sum(c > 0) for c in (of_x, of_y, joint))
    return plug_in, plug_in + (occupied_x + occupied_y - occupied - 1) / (2 * jnp.sum(of_y))


def codes(x: Float[Array, "n d"], num_bins: int, edges: str) -> Int[Array, "n d"]:
    """The cell, from 0 to num_bins - 1, of every value."""
    if edges == "uniform":
        inner = jnp.linspace(jnp.min(x), jnp.max(x), num_bins + 1)[1:-1]
    else:
        of_varying = jnp.where(jnp.ptp(x, axis=0) > 0, x, jnp.nan)
        inner = jnp.nanquantile(of_varying, jnp.linspace(0, 1, num_bins + 1)[1:-1])
    return jnp.searchsorted(inner, x, side="right", method="compare_all" if num_bins <= _FEW_BINS else "scan")


def fixed_cells(
    x: Float[Array, "n d"], low: float | Float[Array, ""], high: float | Float[Array, ""], num_bins: int
) -> Float[Array, "n d"]:
    """The cell, from 0 to num_bins - 1 but floating, of every value between fixed edges; what lies beyond is in the end cells.

    Features for `Binned(num_bins)`, whose own bins then keep all cells apart, since so many bins are narrower than 1. For edges
    that many samples share, as in the planes of Saxe et al. 2018 through training, where edges of a layer's own at every epoch
    would hide that its values grow.
    """
    return jnp.clip(jnp.floor((x - low) / (high - low) * num_bins), 0, num_bins - 1)


def hashes(rows: Int[Array, "n d"], which: int) -> UInt32[Array, "n 2"]:
    """Two random 32-bit linear hashes of every row: two of a million different rows meet with a chance below 1e-5."""
    factors = jax.random.bits(jax.random.key(which), (2, rows.shape[1]), jnp.uint32) | 1
    return jnp.stack([jnp.sum(rows.astype(jnp.uint32) * factor, axis=1) for factor in factors], axis=1)


def hash_counts(hashes: UInt32[Array, "n 2"]) -> Float[Array, " n"]:
    """How often each distinct pair of hashes occurs, in any order, filled up with zeros."""
    first, second = jax.lax.sort((hashes[:, 0], hashes[:, 1]), num_keys=2)
    starts = jnp.concatenate([jnp.zeros(1, bool), (first[1:] != first[:-1]) | (second[1:] != second[:-1])])
    return jnp.zeros(len(hashes)).at[jnp.cumsum(starts)].add(1.0)
