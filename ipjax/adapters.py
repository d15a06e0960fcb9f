"""Unmodified Flax models, Linen and NNX, as networks that report the output of each of their modules.

While the model is traced, the output of every module's `__call__` is marked by `checkpoint_name`, an identity that stands in
the jaxpr under a name. The jaxpr is then evaluated equation by equation with a tap at every mark. Bodies of `jit`, `remat` and
`scan` that hold marks are evaluated in place, so that taps see the values of this very trace everywhere.
"""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from ipjax.graph import bound
from ipjax.models.convolution import convolution
from ipjax.taps import Network, Tap

if TYPE_CHECKING:  # imported where it is used, since that takes a third as long as JAX
    from flax import nnx

LONGEST_UNROLLED = 128  # steps of a scan; a longer one is kept whole, since its compilation would take minutes
IN_MODULES = {"deterministic": True, "use_running_average": True}  # evaluation mode, by the names that Flax gives it
IN_CALL = {**IN_MODULES, "train": False, "training": False, "is_training": False}
MARK = "ipjax:"
PATH = "_ipjax_path"  # attribute of an NNX module that survives the splitting and merging of transforms

Output = Callable[[Any], Array]


def from_linen(
    module: nn.Module,
    variables: Any,
    *arguments: Any,
    start: str | None = None,
    output: Output | None = None,
    **keywords: Any,
) -> Network:
    """A network from any `flax.linen` module, called as `module.apply(variables, x, *arguments, **keywords)`.

    Every module called on the way whose output is a floating array `[batch, ...]` is a layer, named by its path with dots
    (`Encoder_0.Dense_1`); a further call of a module adds its number (`Encoder_0.Dense_1#1`), and so does a further step of a
    `scan` of up to 128 steps. No layers are outputs of other kinds (tuples, say), and modules inside longer scans, `cond`,
    `while_loop`, `custom_jvp` and `custom_vjp`. A batch is known by its length: an output whose first axis has that length
    by chance (an ensemble of as many members) is taken for a layer.

    Dropout and batch normalisation are in evaluation mode, whatever the module's settings say; arguments of the model's call
    named `deterministic`, `use_running_average`, `train`, `training` or `is_training` are set accordingly, also where
    another value is given.

    **Arguments:**

    - `variables`: the collections that `module.init` returns.
    - `arguments`, `keywords`: what the module takes after its input (masks, token types). Arrays are leaves of the network,
        anything else is static; networks that differ in arrays alone share compiled code.
    - `start`: the layer where the path starts, for models whose own input cannot be scaled (tokens). Baseline and the
        layer `input` are then values of that layer, the `x` of every call is still the model's input, of any kind,
        and layers before `start` are not reported.
    - `output`: from what the module returns to the logits `[batch, classes]`.

    **Raises:** `ValueError` for what is no Linen module or holds no variables and, when the network is called, where the
    output is no array; `KeyError`, when called, for an unknown `start`.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: expected a flax.linen.Module, got {_kind(module)}; for NNX models use ipjax.from_nnx")
    if not isinstance(variables, Mapping) or "params" not in variables or not jax.tree.leaves(variables):
        got = f"the keys {', '.join(map(repr, variables)) or '(none)'}" if isinstance(variables, Mapping) else _kind(variables)
        raise ValueError(f'variables: expected what module.init returns, {{"params": ..., "batch_stats": ...}}, got {got}')
    if not all(isinstance(leaf, Array | np.ndarray) for leaf in jax.tree.leaves(variables)):
        raise ValueError("variables: expected arrays, got other leaves; jax.eval_shape gives shapes only, use module.init")
    call = _in_evaluation(module.__call__, (None, *arguments), keywords, IN_CALL)
    return _network(_Linen(_Static(module)), variables, call, start, output)


def from_nnx(
    model: nnx.Module, *arguments: Any, start: str | None = None, output: Output | None = None, **keywords: Any
) -> Network:
    """A network from any `flax.nnx` module, called as `model(x, *arguments, **keywords)`.

    Layers, arguments and errors are those of `from_linen`; a path is of attributes and indices (`blocks.0.conv`). The model
    is copied and left as it is; later changes of its parameters do not reach the network.
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise ValueError(f"model: expected a flax.nnx.Module, got {_kind(model)}; for Linen modules use ipjax.from_linen")
    if not callable(model):
        raise ValueError(f"model: expected a module with a __call__, {type(model).__name__} has none")
    call = _in_evaluation(model.__call__, (None, *arguments), keywords, IN_CALL)  # pyright: ignore[reportCallIssue]
    model = nnx.clone(model)
    model.eval()
    for path, module in nnx.iter_modules(model):
        setattr(module, PATH, ".".join(map(str, path)))
    graph, state = nnx.split(model)
    return _network(_NNX(graph), state, call, start, output)


def _network(
    model: _Linen | _NNX,
    variables: Any,
    call: tuple[Sequence[Any], dict[str, Any]],
    start: str | None,
    output: Output | None,
) -> Network:
    arguments, keywords = call
    leaves, tree = jax.tree.flatten((tuple(arguments[1:]), keywords))
    arrays = [jnp.asarray(leaf) if isinstance(leaf, Array | np.ndarray) else None for leaf in leaves]
    static = tuple(None if array is not None else _Static(leaf) for leaf, array in zip(leaves, arrays, strict=True))
    return Network((variables, arrays), _Marked(model, tree, static, output), start=start)


@dataclass(frozen=True)
class _Marked:
    """`apply` of an adapted model: traces it with marks, then evaluates the trace with taps."""

    model: _Linen | _NNX
    tree: Any
    static: tuple[_Static | None, ...]
    output: Output | None

    def __call__(self, params: Any, x: Any, tap: Tap) -> Array:
        params, x = jax.tree.map(jnp.asarray, (params, x))
        leaves = jax.tree.leaves((params, x))
        program = _call.trace(self, params, x).jaxpr  # of these values: inside jax.shard_map they vary over its devices
        batch = jax.tree.leaves(x)[0].shape[:1]
        calls = Counter(["input"])

        def numbered(path: str, value: Array) -> Array:
            if value.shape[:1] != batch:
                return value
            calls[path] += 1
            return tap(path if calls[path] == 1 else f"{path}#{calls[path] - 1}", value)

        (logits,) = _evaluate(program.jaxpr, program.consts, leaves, numbered)
        return logits


@partial(jax.jit, static_argnums=0)
def _call(marked: _Marked, params: Any, x: Any) -> Array:
    variables, arrays = params
    leaves = [array if static is None else static.value for array, static in zip(arrays, marked.static, strict=True)]
    arguments, keywords = jax.tree.unflatten(marked.tree, leaves)
    result = marked.model(variables, x, *arguments, **keywords)
    logits = result if marked.output is None else marked.output(result)
    if not isinstance(logits, Array):
        raise ValueError(
            f"network: expected logits [batch, classes], the model returns {_kind(logits)}; "
            "pass output=..., a function from what it returns to the logits"
        )
    return logits


@dataclass(frozen=True)
class _Linen:
    module: _Static

    def __call__(self, variables: Any, x: Any, *arguments: Any, **keywords: Any) -> Any:
        with nn.intercept_methods(_mark_linen):
            return self.module.value.apply(variables, x, *arguments, **keywords)


def _mark_linen(call: Callable[..., Any], arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if context.method_name != "__call__":
        return call(*arguments, **keywords)
    # The mode stands in a field of the module or in an argument of the call; Flax refuses it in both.
    fields = {name: mode for name, mode in IN_MODULES.items() if getattr(module, name, None) is not None}
    before = {name: getattr(module, name) for name in fields}
    in_call = {name: mode for name, mode in IN_MODULES.items() if name not in fields}
    arguments, keywords = _in_evaluation(context.orig_method, arguments, keywords, in_call)
    _set_fields(module, fields)
    try:
        return _mark(".".join(module.path), call(*arguments, **keywords))
    finally:
        _set_fields(module, before)


def _set_fields(module: nn.Module, values: dict[str, Any]) -> None:
    for name, value in values.items():
        object.__setattr__(module, name, value)  # bound modules are frozen


def _in_evaluation(
    method: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any], modes: dict[str, bool]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments of a call of a method, those of its parameters that name a mode set to it."""
    try:
        bound = inspect.signature(method).bind_partial(*arguments, **keywords)
    except TypeError:  # the call itself will say better what is wrong
        return arguments, keywords
    for name in modes.keys() & bound.signature.parameters.keys():
        bound.arguments[name] = modes[name]
    return bound.args, bound.kwargs


@dataclass(frozen=True)
class _NNX:
    graph: nnx.GraphDef

    def __call__(self, state: Any, x: Any, *arguments: Any, **keywords: Any) -> Any:
        from flax import nnx

        model = nnx.merge(self.graph, state)
        with _marking({type(module) for _, module in nnx.iter_modules(model)}):
            return model(x, *arguments, **keywords)  # pyright: ignore[reportCallIssue]


_patching = threading.RLock()


@contextmanager
def _marking(classes: set[type]) -> Iterator[None]:
    """Wraps the `__call__` of the classes, for this thread's trace, such that their outputs are marked."""

    def marking(cls: type, call: Callable[..., Any]) -> Callable[..., Any]:
        def marked(self: nnx.Module, *arguments: Any, **keywords: Any) -> Any:
            result = call(self, *arguments, **keywords)
            # A call of a parent class's method by a subclass is no call of its own.
            return _mark(getattr(self, PATH, ""), result) if type(self) is cls else result

        return marked

    with _patching:
        own = {cls: vars(cls).get("__call__") for cls in classes}
        try:
            for cls in classes:
                if hasattr(cls, "__call__"):  # noqa: B004 (the method itself, to wrap it)
                    cls.__call__ = marking(cls, cls.__call__)
            yield
        finally:
            for cls, call in own.items():
                if call is not None:
                    cls.__call__ = call
                elif "__call__" in vars(cls):
                    del cls.__call__


def _mark(path: str, result: Any) -> Any:
    if path and isinstance(result, Array) and jnp.issubdtype(result.dtype, jnp.floating):
        return checkpoint_name(result, MARK + path)
    return result


def _evaluate(jaxpr: core.Jaxpr, constants: Sequence[Any], values: Sequence[Any], tap: Tap) -> list[Any]:
    """The outputs of a jaxpr, marked values replaced by what `tap` returns."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *values), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars], tap)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, values: list[Any], tap: Tap) -> Sequence[Any]:
    name, parameters = equation.primitive.name, equation.params
    if name == "name" and parameters["name"].startswith(MARK):
        return [tap(parameters["name"].removeprefix(MARK), values[0])]
    if name == "conv_general_dilated" and _is_plain(equation):
        strides, padding, precision = (parameters[key] for key in ("window_strides", "padding", "precision"))
        return [convolution(values[0], values[1], strides, padding, precision=precision)]
    body: Any = parameters.get("jaxpr", parameters.get("call_jaxpr"))
    if name in ("jit", "remat2", "checkpoint", "closed_call", "core_call") and _holds_marks(body):
        jaxpr, constants = (body.jaxpr, body.consts) if isinstance(body, core.ClosedJaxpr) else (body, ())
        return _evaluate(jaxpr, constants, values, tap)
    if name == "scan" and 0 < parameters["length"] <= LONGEST_UNROLLED and _holds_marks(body):
        return _evaluate_scan(parameters, values, tap)
    return bound(equation, values)


def _evaluate_scan(parameters: dict[str, Any], values: list[Any], tap: Tap) -> list[Any]:
    """A scan step by step."""
    body, length, num_carry = parameters["jaxpr"], parameters["length"], parameters["num_carry"]
    fixed, carry, sequences = np.split(np.arange(len(values)), np.cumsum([parameters["num_consts"], num_carry]))
    state = [values[i] for i in carry]
    outputs: list[Any] = [None] * length
    for step in reversed(range(length)) if parameters["reverse"] else range(length):
        inputs = [*(values[i] for i in fixed), *state, *(values[i][step] for i in sequences)]
        results = _evaluate(body.jaxpr, body.consts, inputs, tap)
        state, outputs[step] = results[:num_carry], results[num_carry:]
    return [*state, *map(jnp.stack, zip(*outputs, strict=True))]


def _holds_marks(body: core.Jaxpr | core.ClosedJaxpr) -> bool:
    for equation in body.eqns:
        if equation.primitive.name == "name" and equation.params["name"].startswith(MARK):
            return True
        for parameter in equation.params.values():
            bodies = parameter if isinstance(parameter, tuple) else (parameter,)
            if any(isinstance(part, core.Jaxpr | core.ClosedJaxpr) and _holds_marks(part) for part in bodies):
                return True
    return False


NHWC = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def _is_plain(equation: core.JaxprEqn) -> bool:
    """Whether a convolution is one that `models.convolution` makes faster."""
    parameters = equation.params
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    return (
        len({aval.dtype for aval in avals}) == 1
        and parameters["dimension_numbers"] == NHWC
        and {*parameters["lhs_dilation"], *parameters["rhs_dilation"]} == {1}
        and parameters["feature_group_count"] == parameters["batch_group_count"] == 1
    )


class _Static:
    """A static value, compared by its own equality where it can be hashed and by identity otherwise.

    Its text is compared, too: Python takes 1, 1.0 and True, alone or as fields of a module, for equal.
    """

    def __init__(self, value: Any):
        self.value = value
        try:
            hash(value)
            self.key = (type(value), value, repr(value))
        except TypeError:
            self.key = id(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
