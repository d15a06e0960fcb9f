"""Binned codes and their counts against NumPy."""

import chex
import estimator_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipjax.estimators import Binned, mutual_information
from ipjax.estimators.binned import codes, fixed_cells, hash_counts, hashes


def sample(n=300, d=2, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    return rng.exponential(size=(n, d)) + y[:, None], y


@pytest.mark.parametrize("edges", ["uniform", "quantile"])
@pytest.mark.parametrize("kind", ["classes", "own label", "floating"])
def test_matches_the_reference(edges, kind):
    x, y = sample()
    y = {"classes": y, "own label": np.arange(len(y)), "floating": x**2 + np.random.default_rng(1).normal(size=x.shape)}[kind]
    y_codes = reference.codes(y, 6, edges) if kind == "floating" else y[:, None]
    plug_in, corrected = reference.binned(reference.codes(x, 6, edges), y_codes)
    with jax.enable_x64(True):
        result = mutual_information(x, y, Binned(6, edges))
    got = tuple(float(part) for part in (result.value, result.lower, result.upper))
    expected = plug_in, min(plug_in, corrected), max(plug_in, corrected)
    chex.assert_trees_all_close(got, expected, rtol=1e-9)


def test_miller_madow_is_the_other_end():
    x, y = sample()
    plain, corrected = (mutual_information(x, y, Binned(6, miller_madow=on)) for on in (False, True))
    chex.assert_trees_all_equal((plain.lower, plain.upper), (corrected.lower, corrected.upper))
    assert corrected.value == plain.lower < plain.value == plain.upper


def test_own_labels_give_the_entropy_of_the_codes():
    x, _ = sample()
    result = mutual_information(x, np.arange(len(x)), Binned(6))
    expected = reference.entropy(reference.row_counts(reference.codes(x, 6, "uniform")))
    chex.assert_trees_all_close(result.value, expected, rtol=1e-5)


def test_uniform_edges_are_equally_wide():
    x = jnp.array([[0.0, 0.9], [1.0, 1.9], [2.0, 3.0]])
    chex.assert_trees_all_equal(codes(x, 3, "uniform"), jnp.array([[0, 0], [1, 1], [2, 2]]))


def test_quantile_edges_are_equally_filled():
    x, _ = sample(1000, 1)
    counts = {edges: np.bincount(codes(jnp.asarray(x), 5, edges)[:, 0], minlength=5) for edges in ("uniform", "quantile")}
    chex.assert_trees_all_equal(counts["quantile"], np.full(5, 200))
    assert counts["uniform"].max() > 2 * counts["uniform"].min()


@pytest.mark.parametrize("edges", ["uniform", "quantile"])
def test_edges_are_those_of_the_whole_layer(edges):
    x = np.stack([np.linspace(0, 1, 50), np.linspace(10, 11, 50)], axis=1)
    chex.assert_trees_all_equal(codes(jnp.asarray(x), 2, edges), jnp.tile(jnp.array([0, 1]), (50, 1)))


def test_an_outlier_empties_uniform_bins_and_not_quantile_ones():
    x, y = sample()
    x[0] = 1e4
    uniform, quantile = (mutual_information(x, y, Binned(8, edges)).value for edges in ("uniform", "quantile"))
    assert uniform < 0.05 < 0.5 < quantile


@pytest.mark.parametrize(("n", "d", "values"), [(1, 1, 2), (500, 1, 5), (2000, 3, 4), (300, 4096, 30)])
def test_hash_counts_match_unique(n, d, values):
    rng = np.random.default_rng(d)
    rows = rng.integers(values, size=(n, d))
    rows = rows[rng.integers(n, size=n)]  # repeats even where all rows differ
    counts = np.array(hash_counts(hashes(jnp.asarray(rows), 0)))
    chex.assert_trees_all_equal(np.sort(counts[counts > 0]), np.sort(reference.row_counts(rows)).astype(counts.dtype))


def test_rows_that_differ_in_one_cell_are_told_apart():
    rows = jnp.zeros((513, 512), int).at[jnp.arange(512), jnp.arange(512)].set(1)
    assert jnp.sum(hash_counts(hashes(rows, 0)) > 0) == 513


def test_fixed_cells_are_those_of_numpy_and_kept_apart():
    x, y = sample()
    x = np.round(x, 1) + 0.05  # no value on an edge
    edges = np.linspace(-1, 4, 31)
    cells = np.clip(np.digitize(x, edges) - 1, 0, 29)
    got = np.asarray(fixed_cells(jnp.asarray(x), -1.0, 4.0, 30))
    chex.assert_trees_all_equal(got.astype(int), cells)
    assert cells.min() > 5 and cells.max() == 29  # cells of which some are empty, and values beyond
    plug_in, _ = reference.binned(cells, y[:, None])
    chex.assert_trees_all_close(mutual_information(got, y, Binned(30)).value, plug_in, rtol=1e-4)


def test_edges_of_a_layers_own_hide_that_values_grow_and_fixed_ones_do_not():
    x, _ = sample(1000, 1)
    small, large = jnp.asarray(0.1 * x), jnp.asarray(x)
    own = [float(mutual_information(values, np.arange(1000), Binned(30)).value) for values in (small, large)]
    fixed = [
        float(mutual_information(fixed_cells(values, 0.0, x.max(), 30), np.arange(1000), Binned(30)).value)
        for values in (small, large)
    ]
    assert abs(own[0] - own[1]) < 0.05
    assert fixed[1] - fixed[0] > 1
