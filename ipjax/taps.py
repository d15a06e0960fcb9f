"""Networks that report their layers.

A network is a function `apply(params, x, tap) -> logits` that passes the value of each of its layers through a
callable, `x = tap("name", x)`. Whoever runs the network chooses the tap: one that records (activations), one that adds
an offset to differentiate with respect to (conductance), one that replaces (ablation). The name `input` is always a
layer: `Network` taps the input itself before `apply` sees it. An input may be a pytree of arrays, each of which is then a
layer (`input.image`, `input.question`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

if TYPE_CHECKING:  # imported where it is used, since that takes a third as long as JAX
    from flax import nnx

Tap = Callable[[str, Array], Array]
Apply = Callable[[Any, Any, Tap], Array]
Input = Any  # an array [batch, ...] or a pytree of them
Layers = Sequence[str] | Literal["all"] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network:
    """Parameters and a function from a batch to logits that reports its layers.

    Each image's logits must depend on that image alone (no batch statistics): gradients are taken of sums over the batch.
    A pytree: the parameters are leaves; `apply` and `default_layers` are static, so two networks of one architecture
    share compiled code.

    **Attributes:**

    - `params`: any pytree of arrays.
    - `apply`: `apply(params, x, tap) -> logits`, calling `x = tap("name", x)` at each layer, each name once.
    - `default_layers`: the layers used where a caller names none, `input` always added; `None` stands for every layer.
    - `input_shape`: of one input, `None` for any size along an axis; checked where given.
    - `start`: the layer where the path from baseline to input starts, `None` for the input itself. The layer `input` is
        then its value; layers before it are not reported.
    """

    params: Any
    apply: Apply = field(metadata={"static": True})
    default_layers: tuple[str, ...] | None = field(default=None, metadata={"static": True})
    input_shape: tuple[int | None, ...] | None = field(default=None, metadata={"static": True})
    start: str | None = field(default=None, metadata={"static": True})

    def __call__(self, x: Input) -> Float[Array, "batch classes"]:
        """Logits of a batch."""
        return self.run(x, lambda name, value: value)

    def run(self, x: Input, tap: Tap) -> Float[Array, "batch classes"]:
        """Logits of a batch, each layer's value (from `input` on) replaced by what `tap(name, value)` returns."""
        net, x = self.at_start(x)
        net.check_input(x)
        seen = set()

        def tap_once(name: str, value: Array) -> Array:
            if name in seen:
                raise ValueError(
                    f"layer {name!r} was tapped twice in one call; give each call of tap a name of its own, "
                    f"for example {name + '_1'!r}"
                )
            seen.add(name)
            return tap(name, value)

        def tap_input(path: tuple, value: Any) -> Array:
            return tap_once(
                ".".join(["input", *(jax.tree_util.keystr((key,), simple=True) for key in path)]), jnp.asarray(value)
            )

        return net.apply(net.params, jax.tree_util.tree_map_with_path(tap_input, x), tap_once)

    def at_start(self, x: Input) -> tuple[Network, Input]:
        """The network whose input is the layer `start`, and that layer's value for `x`."""
        if self.start in (None, "input"):
            return self, x
        rest = Network((self.params, x), _FromLayer(self.apply, self.start), self.default_layers)
        return rest, value_at(replace(self, start=None), x, self.start)

    def check_input(self, x: Input) -> None:
        """Raises `ValueError` where `x` has not the shape `[batch, *input_shape]` that the network was made for."""
        if self.input_shape is None:
            return
        if not isinstance(x, Array | np.ndarray):
            raise ValueError(f"x: expected an array [batch, ...], got a value of type {type(x).__name__}")
        fits = x.ndim == len(self.input_shape) + 1 and all(
            expected is None or expected == got for expected, got in zip(self.input_shape, x.shape[1:], strict=True)
        )
        if not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in self.input_shape)
            raise ValueError(f"x: expected shape [batch, {sizes}] (channels last), got {list(x.shape)}")

    def layer_shapes(self, x: Input) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every layer for inputs like `x`, in forward order. Nothing is computed."""
        return dict(self._trace(x)[0])

    def logits_shape(self, x: Input) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the logits for inputs like `x`. Nothing is computed."""
        return self._trace(x)[1]

    def _trace(self, x: Input) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
        leaves, tree = jax.tree.flatten((self, x))
        return _trace(tree, tuple((jnp.shape(leaf), _dtype(leaf)) for leaf in leaves))

    def layers(self, x: Input, layers: Layers = None) -> tuple[str, ...]:
        """Names of layers in forward order for inputs like `x`.

        **Arguments:**

        - `layers`: `None` for the default set (with `input`), `"all"`, or names, which are checked and ordered.

        **Raises:** `KeyError` naming the layers nearest to an unknown name.
        """
        every = tuple(self.layer_shapes(x))
        if layers is None:
            inputs = [name for name in every if name.split(".")[0] == "input"]
            layers = every if self.default_layers is None else (*inputs, *self.default_layers)
        elif isinstance(layers, str):
            if layers != "all":
                raise KeyError(f'layers: expected None, "all" or a sequence of names, got the string {layers!r}')
            layers = every
        unknown = [name for name in layers if name not in every]
        if unknown:
            raise KeyError("; ".join(_unknown_layer(name, every) for name in unknown))
        if not layers:
            raise ValueError("layers: expected at least one name, got an empty sequence")
        return tuple(name for name in every if name in layers)

    def activations(self, x: Input, layers: Layers = None) -> tuple[Float[Array, "batch classes"], dict[str, Array]]:
        """Logits and the value `[batch, *shape]` of each layer, in forward order. `layers` as in `Network.layers`."""
        chosen = self.layers(x, layers)
        values: dict[str, Array] = {}

        def tap(name: str, value: Array) -> Array:
            if name in chosen:
                values[name] = value
            return value

        logits = self.run(x, tap)
        return logits, values


def from_function(
    apply: Apply, params: Any, default_layers: Sequence[str] | None = None, *, start: str | None = None
) -> Network:
    """A network from any function `apply(params, x, tap) -> logits` that calls `x = tap("name", x)` at its layers.

    `start` is the layer where the path from baseline to input starts, for inputs that cannot be scaled (tokens).

    ```python
    def apply(params, x, tap):
        h = tap("hidden", jax.nn.relu(x @ params["w1"]))
        return h @ params["w2"]

    net = ipjax.from_function(apply, params)
    ```
    """
    return Network(params, apply, None if default_layers is None else tuple(default_layers), start=start)


def from_tapping_module(
    model: nnx.Module, default_layers: Sequence[str], input_shape: tuple[int | None, ...] | None = None
) -> Network:
    """A network from an NNX module that calls taps itself, as those of `ipjax.models` do, in evaluation mode."""
    from flax import nnx

    model.eval()
    graph, params = nnx.split(model)
    return Network(params, TappingModule(graph), tuple(default_layers), input_shape)


@lru_cache(maxsize=128)
def _trace(
    tree: Any, leaves: tuple[tuple[tuple[int, ...], Any], ...]
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """Layers (in the order of their taps: a pytree would sort them) and logits of a network and input of these shapes."""
    names = []

    def record(net: Network, x: Input) -> tuple[list[Array], Array]:
        values = []

        def tap(name: str, value: Array) -> Array:
            names.append(name)
            values.append(value)
            return value

        logits = net.run(x, tap)
        return values, logits

    net, x = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    values, logits = jax.eval_shape(record, net, x)
    return dict(zip(names, values, strict=True)), logits


@dataclass(frozen=True)
class _FromLayer:
    """`apply` of a network that starts at a layer; its parameters are the whole network's and that network's input."""

    apply: Apply
    start: str

    def __call__(self, params: Any, value: Array, tap: Tap) -> Array:
        begun = False

        def tap_rest(name: str, own: Array) -> Array:
            nonlocal begun
            if name == self.start:
                begun = True
                return value
            return tap(name, own) if begun else own

        whole, x = params
        logits = self.apply(whole, x, tap_rest)
        if not begun:
            raise KeyError(f"start: expected a layer after the input, got {self.start!r}")
        return logits


@partial(jax.jit, static_argnames="layer")
def value_at(net: Network, x: Input, layer: str) -> Array:
    """The value `[batch, *shape]` of one layer, compiled."""
    return net.activations(x, [layer])[1][layer]


@dataclass(frozen=True)
class TappingModule:
    """`apply` of an NNX module that calls taps itself."""

    graph: nnx.GraphDef

    def __call__(self, params: Any, x: Array, tap: Tap) -> Array:
        from flax import nnx

        return nnx.merge(self.graph, params)(x, tap)  # pyright: ignore[reportCallIssue]


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, Array) else jnp.result_type(leaf)


def _unknown_layer(name: str, every: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(str(name), every, n=3, cutoff=0.3) or every[:3]
    return f"no layer {name!r}; the nearest of the network's {len(every)} layers are {', '.join(map(repr, nearest))}"
