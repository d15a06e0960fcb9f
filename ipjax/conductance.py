"""Layer conductance of all layers in one pass.

The conductance of a unit with activation h on the straight path x(a) = x' + a (x - x') from a baseline x' to the input is

    ∫ dF/dh(x(a)) · dh(x(a))/da da,        F a scalar of the logits (the target),

after Dhamdhere, Sundararajan and Yan 2018 (arXiv:1805.12233), in the form of Shrikumar, Su and Kundaje 2018
(arXiv:1807.09946). Each layer passes through a zero offset; the gradient with respect to the offsets is dF/dh of every layer at
once, so one forward and one backward pass a node serve all layers. Nodes are mapped in chunks inside a scan: memory
grows with the chunk and not with the number of nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ipjax.multipliers import over_steps
from ipjax.quadrature import Quadrature, trapezoid
from ipjax.readout import Readout
from ipjax.taps import Input, Layers, Network

Target = (
    Literal["predicted", "contrast"]
    | int
    | Int[Array, " batch"]
    | Float[Array, "*targets_and_batch classes"]
    | Callable[[Float[Array, "batch classes"]], Float[Array, " batch"]]
)
ByLayer = dict[str, Array]


def layer_conductance(
    net: Network,
    x: Input,
    *,
    layers: Layers = None,
    target: Target = "predicted",
    baseline: Input = 0.0,
    quadrature: Quadrature = trapezoid(32),  # noqa: B008 (frozen)
    readout: Readout | None = None,
    nodes_at_once: int | None = None,
) -> ByLayer:
    """Conductance of every unit of each layer, in the units of the target.

    **Arguments:**

    - `x`: `[batch, ...]`, floating, or a pytree of such arrays, which take one path together (each is a layer then,
        `input.<key>`). For a network with a `start`, what the model takes; the path is then one of values at that layer.
    - `layers`: `None` for the network's default set, names, or `"all"`. On `"input"` it is integrated gradients
        (Sundararajan, Taly and Yan 2017).
    - `target`: `"predicted"` (the logit of each image's predicted class), `"contrast"` (`contrast_weights` of seed 0,
        which does not depend on x), a class, an int array `[batch]` of classes, a float array `[classes]` or `[batch,
        classes]` of weights on the logits, or a callable from logits `[batch, classes]` to `[batch]` (compiled anew for
        each callable object). Conductance toward a class chosen from x, or the true label, carries that choice: it leaks
        the label into every layer. Several targets at once are weights `[targets, batch, classes]` (`target_weights` stacked):
        they share the passes forward, so a further one costs a pass backward a node.
    - `baseline`: a number, or an array or pytree that broadcasts to `x` (to the value at the network's `start`).
    - `quadrature`: a rule of `ipjax.quadrature`.
    - `readout`: a linear, hashable map of a layer's units to features, see `ipjax.readout`; `None` keeps every unit.
    - `nodes_at_once`: path nodes evaluated together, by the rescale rule two or more; `None` chooses by the size of `x`.

    **Returns:** layer -> `[batch, *layer shape]`, or `[batch, features]` with a readout, behind an axis of the targets where
    there are several; in forward order (what a `jax.jit` of your own returns has its keys sorted, as any dict).

    **Raises:** `ValueError` for inputs that are not finite, of a wrong shape or dtype, for a target that does not fit the
    logits and for a result that is not finite; `KeyError` for unknown layers.
    """
    net, x = _checked_input(net, x)
    names = net.layers(x, layers)
    baseline = _checked_baseline(x, baseline)
    choice, weights = _checked_target(net, x, target)
    if nodes_at_once is not None and (not isinstance(nodes_at_once, int) or nodes_at_once < 1):
        raise ValueError(f"nodes_at_once: expected an integer of at least 1, got {nodes_at_once}")
    chunk = _chunk(quadrature, nodes_at_once or _nodes_at_once(x, quadrature))

    def toward(weights: Array | None) -> ByLayer:
        return _layer_conductance(net, x, baseline, weights, quadrature, names, choice, readout, chunk)

    values = _for_each_target(toward, weights)
    return _checked_output({name: values[name] for name in names})  # jit sorts


def completeness_gap(
    net: Network, x: Input, conductance: ByLayer, *, target: Target = "predicted", baseline: Input = 0.0
) -> dict[str, Float[Array, "*targets batch"]]:
    """Sum of a layer's conductance less F(x) - F(x'), per image and layer, in the units of the target.

    Zero, up to quadrature error, at layers that cut every path from input to logits; inside a residual branch the
    sum is only the branch's share. `conductance` may have gone through `readout.channel_sum` or `flatten`, which keep
    the sum, but through no other readout; `target` and `baseline` are those it was computed with. Of several targets it is
    `[targets, batch]` a layer.

    **Raises:** `ValueError` as `layer_conductance` does, and where `conductance` is of other numbers of targets or images.
    """
    net, x = _checked_input(net, x)
    choice, weights = _checked_target(net, x, target)
    change = _target_change(net, x, _checked_baseline(x, baseline), weights, choice)
    for name, value in conductance.items():
        if value.shape[: change.ndim] != change.shape:
            expected = " targets and ".join(map(str, change.shape))
            raise ValueError(f"conductance of {name!r}: expected {expected} images as in x, got shape {list(value.shape)}")
    return {name: jnp.sum(value.reshape(*change.shape, -1), axis=-1) - change for name, value in conductance.items()}


def neuron_conductance(
    net: Network,
    x: Input,
    layer: str,
    unit: int | tuple[int, ...],
    *,
    target: Target = "predicted",
    baseline: Input = 0.0,
    quadrature: Quadrature = trapezoid(32),  # noqa: B008 (frozen)
) -> Input:
    """What each input element contributes through one unit: (x - x') ∫ dF/dh · dh/dx da, in the shape of `x`.

    Its sum over the input is the unit's conductance (Dhamdhere et al. 2018, equation 2). Whatever the rule's form, its plain
    weights and the gradients at its nodes are used; `gauss_legendre` gives Captum's `NeuronConductance` with
    `method="gausslegendre"`.

    **Arguments:**

    - `unit`: the unit's index in the layer's shape without batch.
    """
    net, x = _checked_input(net, x)
    (name,) = net.layers(x, [layer])
    index = tuple(unit) if isinstance(unit, tuple | list) else (unit,)
    shape = net.layer_shapes(x)[name].shape[1:]
    if (
        not all(isinstance(i, int | np.integer) for i in index)
        or len(index) != len(shape)
        or any(not 0 <= i < n for i, n in zip(index, shape, strict=True))
    ):
        raise ValueError(f"unit: expected an index into layer {name!r} of shape {list(shape)}, got {unit}")
    choice, weights = _checked_target(net, x, target)
    baseline = _checked_baseline(x, baseline)
    chunk = _chunk(quadrature, _nodes_at_once(x, quadrature))

    def toward(weights: Array | None) -> Input:
        return _neuron_conductance(net, x, baseline, weights, quadrature, name, index, choice, chunk)

    return _for_each_target(toward, weights)


def sensitivity(
    net: Network,
    x: Input,
    *,
    layers: Layers = None,
    baseline: Input = 0.0,
    readout: Readout | None = None,
) -> ByLayer:
    """Directional derivative of each layer at x along x - x', by one Jacobian-vector product.

    Arguments, returned shapes and errors as those of `layer_conductance`. It needs no target and no path.
    """
    net, x = _checked_input(net, x)
    names = net.layers(x, layers)
    values = _sensitivity(net, x, _checked_baseline(x, baseline), names, readout)
    return _checked_output({name: values[name] for name in names})  # jit sorts


def target_weights(net: Network, x: Input, target: Target) -> Float[Array, "*targets batch classes"]:
    """The target as weights `[batch, classes]` on the logits of these images; stacked, several targets of one call.

    `target` is as `layer_conductance` takes it, but no callable. **Raises:** `ValueError` for a callable and as there.
    """
    net, x = _checked_input(net, x)
    choice, weights = _checked_target(net, x, target)
    if callable(choice):
        raise ValueError(
            "target: expected one that is linear in the logits, got a callable; pass it to layer_conductance alone"
        )
    if weights is None:
        return _predicted(net, x)
    shape = net.logits_shape(x).shape
    return weights if weights.ndim > len(shape) else jnp.broadcast_to(weights, shape)


def contrast_weights(num_classes: int, seed: int = 0) -> Float[Array, " classes"]:
    """The target `"contrast"`: a random unit direction of the logits that depends on the seed alone."""
    direction = jax.random.normal(jax.random.key(seed), (num_classes,), jnp.float32)
    return direction / jnp.linalg.norm(direction)


def _for_each_target(function: Callable[[Array | None], Any], weights: Array | None) -> Any:
    """The function of the weights, of each target's if several: mapped, they share the passes forward."""
    several = weights is not None and weights.ndim == 3
    return jax.vmap(function)(weights) if several else function(weights)


def _batch(x: Input) -> int:
    return len(jax.tree.leaves(x)[0])


def _point(baseline: Input, direction: Input, a: Array) -> Input:
    """The point of the path at `a`, in the precision of the input."""
    return jax.tree.map(lambda start, along: (start + a * along).astype(along.dtype), baseline, direction)


def _at_least_single(values: Any) -> Any:
    """Half-precision values in single precision, in which products and sums over the path are safe."""
    return jax.tree.map(lambda value: value.astype(jnp.promote_types(value.dtype, jnp.float32)), values)


def _precision(x: Input) -> Any:
    """The dtype of positions on the path."""
    return jnp.promote_types(jnp.result_type(*jax.tree.leaves(x)), jnp.float32)


def _nodes_at_once(x: Input, quadrature: Quadrature) -> int:
    """At most 12, and a block of images x nodes at most as large as 6 images of 224 x 224 x 3, or 12 by the rescale rule."""
    images = 12 if quadrature.form == "rescale" else 6  # chunks of the rescale rule share a node, so few of them are better
    return max(1, min(12, images * 224 * 224 * 3 // sum(leaf.size for leaf in jax.tree.leaves(x))))


def _chunk(quadrature: Quadrature, budget: int) -> int:
    """Nodes a chunk: within the upper half of the budget, the number with which the fewest are evaluated."""
    num_nodes, shared = len(quadrature.nodes), int(quadrature.form == "rescale")  # by neighbouring chunks
    largest = max(min(budget, num_nodes), 1 + shared)
    sizes = range(largest, max(largest // 2, shared), -1)
    return min(sizes, key=lambda m: -(-(num_nodes - shared) // (m - shared)) * m)


@partial(jax.jit, static_argnames=("names", "choice", "readout", "chunk"))
def _layer_conductance(
    net: Network,
    x: Input,
    baseline: Input,
    weights: Array | None,
    quadrature: Quadrature,
    names: tuple[str, ...],
    choice: Callable | str | None,
    readout: Readout | None,
    chunk: int,
) -> ByLayer:
    objective = _objective(net, x, weights, choice)
    direction = jax.tree.map(jnp.subtract, x, baseline)
    axes = _varying_axes(net, x, baseline, weights)

    def node(a: Array) -> tuple[ByLayer, ByLayer]:
        point = _point(baseline, direction, a)
        of_step = quadrature.form == "rescale"
        return _at_least_single(_gradients_and_activations(net, point, names, objective, axes, of_step))

    def rate(a: Array) -> ByLayer:
        def activations(a: Array) -> ByLayer:
            return _at_least_single(_activations(net, _point(baseline, direction, a), names))

        return jax.jvp(activations, (a,), (jnp.ones_like(a),))[1]

    def step(g: Array, next_g: Array, h: Array, next_h: Array) -> Array:
        gradient = (g + next_g) / 2 if quadrature.form == "trapezoid" else g
        return gradient * (next_h - h)

    def stieltjes(last: tuple[ByLayer, ByLayer], at: tuple[Array, Array]) -> tuple[tuple[ByLayer, ByLayer], ByLayer]:
        nodes, closes_step = at
        here = jax.vmap(node)(nodes)

        def pick(k: Array | int) -> tuple[ByLayer, ByLayer]:
            return jax.tree.map(lambda value: jax.lax.dynamic_index_in_dim(value, k, keepdims=False), here)

        def steps(last: tuple[ByLayer, ByLayer], this: tuple[ByLayer, ByLayer]) -> ByLayer:
            return jax.tree.map(step, last[0], this[0], last[1], this[1])

        total = jax.tree.map(lambda value: jnp.where(closes_step[0] > 0, value, 0), steps(last, pick(0)))
        # As a loop: written out, XLA would compute gradients anew for each step, where layers are joined by sums alone.
        total = jax.lax.fori_loop(1, chunk, lambda k, total: jax.tree.map(jnp.add, total, steps(pick(k - 1), pick(k))), total)
        return pick(chunk - 1), total

    def tangent(_: None, at: tuple[Array, Array]) -> tuple[None, ByLayer]:
        nodes, node_weights = at
        g, _h = jax.vmap(node)(nodes)
        return None, jax.tree.map(lambda g, dh: jnp.einsum("k,k...->...", node_weights, g * dh), g, jax.vmap(rate)(nodes))

    dtype = _precision(x)
    nodes = jnp.asarray(quadrature.nodes, dtype)
    zeros = _zeros(jax.eval_shape(lambda: _at_least_single(_activations(net, x, names))), axes)
    if quadrature.form == "tangent":
        body, first, coefficients = tangent, None, jnp.asarray(quadrature.weights, dtype)
    else:  # a node closes the step from the node before it: the first one closes none (idle ones in front, of no length)
        body, first, coefficients = stieltjes, (zeros, zeros), jnp.ones_like(nodes).at[0].set(0)
    in_chunks = _in_overlapping_chunks if quadrature.form == "rescale" else _in_chunks

    def accumulate(carry: tuple, at: tuple[Array, Array]) -> tuple[tuple, None]:
        state, total = carry
        state, part = body(state, at)
        return (state, jax.tree.map(jnp.add, total, part)), None

    (_, total), _ = jax.lax.scan(accumulate, (first, zeros), in_chunks(nodes, coefficients, chunk))
    return _read(readout, total)


@partial(jax.jit, static_argnames=("name", "index", "choice", "chunk"))
def _neuron_conductance(
    net: Network,
    x: Input,
    baseline: Input,
    weights: Array | None,
    quadrature: Quadrature,
    name: str,
    index: tuple[int, ...],
    choice: Callable | str | None,
    chunk: int,
) -> Input:
    objective = _objective(net, x, weights, choice)
    direction = jax.tree.map(jnp.subtract, x, baseline)
    place = (slice(None), *index)
    axes = _varying_axes(net, x, baseline, weights)

    def node(a: Array) -> Input:
        point = _point(baseline, direction, a)
        gradients, _ = _gradients_and_activations(net, point, (name,), objective, axes)
        gradient = jax.lax.stop_gradient(gradients[name][place])
        return jax.grad(lambda x: jnp.sum(gradient * _activations(net, x, (name,))[name][place]))(point)

    def accumulate(total: Input, at: tuple[Array, Array]) -> tuple[Input, None]:
        nodes, node_weights = at

        def add(total: Array, values: Array) -> Array:
            return total + jnp.einsum("k,k...->...", node_weights.astype(values.dtype), values)

        return jax.tree.map(add, total, jax.vmap(node)(nodes)), None

    dtype = _precision(x)
    nodes, node_weights = jnp.asarray(quadrature.nodes, dtype), jnp.asarray(quadrature.weights, dtype)
    total, _ = jax.lax.scan(accumulate, _zeros(x, axes), _in_chunks(nodes, node_weights, chunk))
    return jax.tree.map(jnp.multiply, total, direction)


@partial(jax.jit, static_argnames=("names", "readout"))
def _sensitivity(net: Network, x: Input, baseline: Input, names: tuple[str, ...], readout: Readout | None) -> ByLayer:
    direction = jax.tree.map(jnp.subtract, x, baseline)
    _, rates = jax.jvp(lambda x: _activations(net, x, names), (x,), (direction,))
    return _read(readout, rates)


@partial(jax.jit, static_argnames=("choice",))
def _target_change(net: Network, x: Input, baseline: Input, weights: Array | None, choice: Callable | str | None) -> Array:
    objective = _objective(net, x, weights, choice)
    return objective(net(x)) - objective(net(baseline))


def _gradients_and_activations(
    net: Network,
    x: Input,
    names: tuple[str, ...],
    objective: Callable[[Array], Array],
    axes: frozenset[str],
    of_step: bool = False,
) -> tuple[ByLayer, ByLayer]:
    """dF/dh and h of the named layers at x: the gradient with respect to an offset added at each layer.

    `of_step` for the multipliers of the step to the next node in place of dF/dh.
    """

    def total(offsets: ByLayer, x: Input) -> tuple[Array, ByLayer]:
        values = {}

        def tap(name: str, value: Array) -> Array:
            if name in offsets:
                values[name] = value
                value = value + offsets[name]
            return value

        return jnp.sum(objective(net.run(x, tap))), values  # images do not mix, so the sum's gradient is each image's

    shapes = net.layer_shapes(x)
    function = partial(over_steps, total) if of_step else total
    return jax.grad(function, has_aux=True)(_zeros({name: shapes[name] for name in names}, axes), x)


def _varying_axes(*values: Any) -> frozenset[str]:
    """The mesh axes along which some of these differ between devices: those of a `jax.shard_map` around, else none."""
    return frozenset().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(values)))


def _zeros(like: Any, axes: frozenset[str]) -> Any:
    """Zeros of these shapes that vary along mesh axes. Made plainly in the body of a `jax.shard_map` they count as the same on
    all devices, and a gradient with respect to them is then summed over devices, silently."""
    return jax.tree.map(lambda leaf: jax.lax.pcast(jnp.zeros(leaf.shape, leaf.dtype), tuple(sorted(axes)), to="varying"), like)


def _activations(net: Network, x: Input, names: tuple[str, ...]) -> ByLayer:
    return net.activations(x, names)[1]


def _objective(net: Network, x: Input, weights: Array | None, choice: Callable | str | None) -> Callable[[Array], Array]:
    """The target as a function from logits to `[batch]`."""
    if callable(choice):
        return choice
    chosen = _predicted(net, x) if weights is None else weights
    return lambda logits: jnp.sum(logits * chosen, axis=-1)


@jax.jit
def _predicted(net: Network, x: Input) -> Float[Array, "batch classes"]:
    """1 at each image's predicted class."""
    logits = net(x)
    return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)


def _read(readout: Readout | None, values: ByLayer) -> ByLayer:
    return values if readout is None else {name: readout(value) for name, value in values.items()}


def _in_chunks(nodes: Array, coefficients: Array, chunk: int) -> tuple[Array, Array]:
    """Both as `[chunks, chunk]`, filled up in front with copies of the first node that count for nothing."""
    idle = -len(nodes) % chunk
    nodes = jnp.concatenate([jnp.broadcast_to(nodes[:1], (idle,)), nodes])
    coefficients = jnp.concatenate([jnp.zeros(idle, nodes.dtype), coefficients])
    return nodes.reshape(-1, chunk), coefficients.reshape(-1, chunk)


def _in_overlapping_chunks(nodes: Array, coefficients: Array, chunk: int) -> tuple[Array, Array]:
    """Nodes as `_in_chunks`, but each chunk starts with the last node of the one before, and closes no step there."""
    steps = chunk - 1
    nodes = jnp.concatenate([jnp.broadcast_to(nodes[:1], (-(len(nodes) - 1) % steps,)), nodes])
    nodes = nodes[np.arange(0, len(nodes) - 1, steps)[:, None] + np.arange(chunk)]
    return nodes, jnp.zeros_like(nodes)


def _checked_input(net: Network, x: Input) -> tuple[Network, Input]:
    """What the path runs through: the network from its start on, and the value there."""
    whole = net.start is None
    net, x = net.at_start(x)
    for leaf in jax.tree.leaves(x):
        if not isinstance(leaf, Array | np.ndarray | np.generic):
            raise ValueError(
                f"x: expected an array [batch, ...] or a pytree of arrays, found a value of type {type(leaf).__name__}"
            )
    x = jax.tree.map(jnp.asarray, x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"x: expected floating numbers, got {leaf.dtype}; preprocess images as for the network's training; masks and "
                "the like go to ipjax.from_linen or from_nnx, which for tokens take start=, the layer where the path starts"
            )
        if leaf.ndim < 2 or leaf.size == 0:
            raise ValueError(
                f"x: expected [batch, ...] with at least one image of at least one pixel, got shape {list(leaf.shape)}"
            )
    if len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"x: expected one or more arrays of one batch size, got shapes {', '.join(map(str, shapes)) or 'none'}"
        )
    net.check_input(x)
    for leaf in jax.tree.leaves(x):
        if not _finite_if_known(leaf):
            bad = np.flatnonzero(~np.isfinite(np.asarray(leaf)).reshape(len(leaf), -1).all(axis=1))
            raise ValueError(
                f"{'x' if whole else 'value at the start'}: expected finite numbers, found NaN or infinity in {len(bad)} of "
                f"{len(leaf)} images, first {bad[:5].tolist()}"
            )
    return net, x


def _finite_if_known(values: Array) -> bool:
    """Whether all are finite; nothing is known of traced ones. Inside `jax.jit` known ones are looked at on the host."""
    if isinstance(values, Tracer):
        return True
    finite = jnp.isfinite(values).all()
    return bool(np.isfinite(np.asarray(values)).all() if isinstance(finite, Tracer) else finite)


def _checked_output(values: ByLayer) -> ByLayer:
    bad = [name for name, value in values.items() if not _finite_if_known(value)]
    if bad:
        raise ValueError(
            f"the result is not finite at {', '.join(bad[:5])}; expected a network and a target with finite values and "
            "gradients between baseline and x: check the parameters, the scale of x and its precision"
        )
    return values


def _checked_baseline(x: Input, baseline: Input) -> Input:
    """The baseline of every leaf of `x`, in its shape and dtype."""
    tree = jax.tree.structure(x)
    baselines = [baseline] * tree.num_leaves if jnp.isscalar(baseline) else jax.tree.leaves(baseline)
    if len(baselines) != tree.num_leaves or not (jnp.isscalar(baseline) or jax.tree.structure(baseline) == tree):
        raise ValueError(f"baseline: expected a number or the structure of x, {tree}, got {jax.tree.structure(baseline)}")
    return jax.tree.map(_checked_leaf_baseline, x, jax.tree.unflatten(tree, baselines))


def _checked_leaf_baseline(x: Array, baseline: ArrayLike) -> Array:
    baseline = jnp.asarray(baseline, x.dtype)
    try:
        full = jnp.broadcast_to(baseline, x.shape)
    except ValueError as error:
        raise ValueError(
            f"baseline: expected a number or an array that broadcasts to {list(x.shape)}, got shape {list(baseline.shape)}"
        ) from error
    if not _finite_if_known(baseline):
        raise ValueError("baseline: expected finite numbers, found NaN or infinity")
    return full


def _checked_target(net: Network, x: Input, target: Target) -> tuple[Callable | str | None, Array | None]:
    """The target as a static choice (a callable or "predicted") or as weights on the logits."""
    logits, batch = net.logits_shape(x), _batch(x)
    if len(logits.shape) != 2 or logits.shape[0] != batch:
        raise ValueError(f"network: expected logits [{batch}, classes], got shape {list(logits.shape)}")
    num_classes = logits.shape[1]
    if callable(target):
        shape = jax.eval_shape(target, logits).shape
        if shape != (batch,):
            raise ValueError(
                f"target: expected a callable from logits {list(logits.shape)} to [{batch}], it returns {list(shape)}"
            )
        return target, None
    if isinstance(target, str):
        if target == "predicted":
            return target, None
        if target == "contrast":
            return None, contrast_weights(num_classes).astype(logits.dtype)
        raise ValueError(f'target: expected "predicted", "contrast", a class, an array or a callable, got {target!r}')
    try:
        array = jnp.asarray(target)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'target: expected "predicted", "contrast", a class, an array or a callable, got a {type(target).__name__}'
        ) from error
    if jnp.issubdtype(array.dtype, jnp.integer):
        if array.ndim > 1 or (array.ndim == 1 and len(array) != batch):
            raise ValueError(f"target: expected one class or {batch} classes, one an image, got shape {list(array.shape)}")
        if not isinstance(array, Tracer):
            least, most = np.min(array), np.max(array)
            if least < 0 or most >= num_classes:
                raise ValueError(f"target: expected classes from 0 to {num_classes - 1}, got from {least} to {most}")
        return None, jax.nn.one_hot(array, num_classes, dtype=logits.dtype)
    several = array.ndim == 3 and array.shape[1:] == logits.shape and len(array) > 0
    if not (several or array.shape in ((num_classes,), logits.shape)) or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"target: expected float weights [{num_classes}], {list(logits.shape)} or [targets, {batch}, {num_classes}] on the "
            f"logits, or int classes, got {array.dtype} of shape {list(array.shape)}"
        )
    if not _finite_if_known(array):
        raise ValueError("target: expected finite weights on the logits, found NaN or infinity")
    return None, array.astype(logits.dtype)
