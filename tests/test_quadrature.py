"""Quadrature rules against their definitions, polynomials and Captum's own tables."""

import numpy as np
import pytest
from captum.attr._utils.approximation_methods import approximation_parameters

from ipjax import quadrature

CAPTUM = ("gausslegendre", "riemann_trapezoid", "riemann_left", "riemann_middle", "riemann_right")
RULES = {
    "trapezoid": quadrature.trapezoid,
    "left": quadrature.left,
    "midpoint": quadrature.midpoint,
    "gauss_legendre": quadrature.gauss_legendre,
    **{f"captum {method}": lambda n, method=method: quadrature.captum(n, method) for method in CAPTUM},
}
FORMS = {"trapezoid": "trapezoid", "midpoint": "tangent", "gauss_legendre": "tangent"}  # all others: "left"


@pytest.fixture(params=RULES)
def name(request):
    return request.param


@pytest.mark.parametrize("n", [1, 2, 7, np.int64(50)])
def test_nodes_ascend_within_the_path(name, n):
    rule = RULES[name](n)
    assert rule.form == FORMS.get(name, "left")
    assert rule.nodes.shape == rule.weights.shape == (n if FORMS.get(name) == "tangent" else n + 1,)
    assert (np.diff(rule.nodes) > 0).all()
    assert rule.nodes[0] >= 0 and rule.nodes[-1] <= 1
    assert (rule.weights >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_weights_sum_to_the_length_of_the_path(name, n):
    # Captum divides by the number of nodes where a trapezoid rule divides by that of steps
    expected = n / (n + 1) if name == "captum riemann_trapezoid" else 1
    assert RULES[name](n).weights.sum() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "degree"), [("trapezoid", 1), ("left", 0), ("midpoint", 1), ("gauss_legendre", 13)])
def test_exact_for_polynomials_up_to_a_degree_and_no_further(name, degree):
    rule = RULES[name](7)
    error = [abs(rule.weights @ rule.nodes**k - 1 / (k + 1)) for k in range(degree + 2)]
    assert max(error[:-1]) < 1e-14
    assert error[-1] > 1e-9


@pytest.mark.parametrize(("name", "order"), [("trapezoid", 2), ("left", 1), ("midpoint", 2)])
def test_order_of_convergence(name, order):
    coarse, fine = (abs(rule.weights @ np.exp(rule.nodes) - np.expm1(1)) for rule in map(RULES[name], (32, 64)))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.05)


def test_trapezoid_and_left_touch_both_ends_and_the_others_neither():
    for name in ("trapezoid", "left", "captum riemann_trapezoid"):
        assert RULES[name](6).nodes[[0, -1]].tolist() == [0, 1]
    for name in ("midpoint", "gauss_legendre", "captum gausslegendre"):
        nodes = RULES[name](6).nodes
        assert nodes[0] > 0 and nodes[-1] < 1


@pytest.mark.parametrize("n", [1, 9, 50])
@pytest.mark.parametrize("method", CAPTUM)
def test_captums_nodes_and_weights(method, n):
    rule = quadrature.captum(n, method)
    weights, nodes = (of(n + 1) for of in approximation_parameters(method))
    np.testing.assert_allclose(rule.nodes, nodes, rtol=0, atol=1e-15 if method == "gausslegendre" else 1e-7)  # float32
    np.testing.assert_allclose(rule.weights, weights, rtol=1e-13)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True, "8", None])
def test_number_of_steps_must_be_a_positive_integer(name, num_steps):
    with pytest.raises(ValueError, match="number of steps: expected an integer of at least 1, got"):
        RULES[name](num_steps)


def test_unknown_captum_method_lists_the_five():
    with pytest.raises(ValueError, match=f"expected one of {', '.join(CAPTUM)}, got 'simpson'"):
        quadrature.captum(8, "simpson")
