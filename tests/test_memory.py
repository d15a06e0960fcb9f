"""No estimator holds a matrix of all pairs, and no check of the data a copy of it in double precision."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.memory import FOR_FEATURES, FOR_LABELS, OF_INPUT, beyond_the_data
from ipjax.estimators import KDE, Labels
from ipjax.estimators.base import checked

N, D = 50_000, 64  # more than 46,340, whose square is the last 32-bit integer
FEATURES, INDEX = jax.ShapeDtypeStruct((N, D), jnp.float32), jax.ShapeDtypeStruct((N,), jnp.int32)
ONE_WILL_DO = ("NWJ", "DonskerVaradhan", "SMILE")  # which share their code with InfoNCE and take long to compile
CASES = [
    (f"{name}, {kind}", estimator, y)
    for kind, y, estimators in (
        ("labels", Labels(INDEX, 10), FOR_LABELS),
        ("own labels", Labels(INDEX, N, distinct=True), {name: FOR_LABELS[name] for name in OF_INPUT}),
        ("floating y", FEATURES, FOR_FEATURES),
    )
    for name, estimator in estimators.items()
    if name not in ONE_WILL_DO
]


@pytest.mark.parametrize(("estimator", "y"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_no_estimator_holds_a_matrix_of_all_pairs(estimator, y):
    assert beyond_the_data(estimator, FEATURES, y) < N * N  # bytes: a quarter of such a matrix


def test_gradients_hold_none_either():
    def value(x):
        return KDE()(x, Labels(jnp.arange(N) % 10, 10), jax.random.key(0)).value

    analysis = jax.jit(jax.grad(value)).lower(FEATURES).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < N * N


def test_checks_take_less_than_a_second_copy_beside_the_result():
    x, y = np.random.default_rng(0).normal(size=(20_000, 100)).astype(np.float32), np.arange(20_000) % 10
    tracemalloc.start()
    checked(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * x.nbytes
