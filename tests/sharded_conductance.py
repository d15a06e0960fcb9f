"""Run by test_sharding.py on 8 devices: conductance of a sharded batch against that of the whole batch on one device."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ipjax
import ports

MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
QUADRATURES = {
    "trapezoid": ipjax.quadrature.trapezoid(4),
    "left": ipjax.quadrature.left(4),
    "captum": ipjax.quadrature.captum(4),
    "gauss_legendre": ipjax.quadrature.gauss_legendre(4),
}
CLASSES = 5


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(7)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(12, 7, rngs=rngs), nnx.Linear(7, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.gelu(self.first(x.reshape(len(x), -1))))


def function(params, x, tap):
    h = tap("hidden", jax.nn.gelu(x.reshape(len(x), -1) @ params["w1"]))
    h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ params["w2"]), None), h, None, 2)
    return tap("last", h) @ params["w3"]


def inputs(shape, n=16):
    return jax.random.normal(jax.random.key(1), (n, *shape))


def networks():
    x = inputs((2, 2, 3))
    w = jax.random.split(jax.random.key(0), 3)
    shapes = {"w1": (12, 7), "w2": (7, 7), "w3": (7, CLASSES)}
    params = {name: jax.random.normal(key, shape) / 3 for key, (name, shape) in zip(w, shapes.items(), strict=True)}
    return {
        "function": ipjax.from_function(function, params),
        "linen": ipjax.from_linen(Linen(), Linen().init(jax.random.key(0), x)),
        "nnx": ipjax.from_nnx(NNX(nnx.Rngs(0))),
    }, x


def everything(net, x, target, quadrature, unit):
    """All that this library computes along the path."""
    conductance = ipjax.layer_conductance(net, x, target=target, quadrature=quadrature)
    return {
        "conductance": conductance,
        "channels": ipjax.layer_conductance(net, x, target=target, quadrature=quadrature, readout=ipjax.readout.channel_sum),
        "gap": ipjax.completeness_gap(net, x, conductance, target=target),
        "neuron": ipjax.neuron_conductance(net, x, *unit, target=target, quadrature=quadrature),
        "sensitivity": ipjax.sensitivity(net, x),
    }


def compare(what, net, x, target, quadrature, unit, both):
    ours = partial(everything, quadrature=quadrature, unit=unit)
    expected = ours(net, x, target)
    images = isinstance(target, jax.Array) and len(target) == len(x)
    sharded = jax.device_put(x, NamedSharding(MESH, P("data")))
    if isinstance(target, str):
        run = lambda net, x, _: ours(net, x, target)  # noqa: E731
        weights = jnp.zeros(())
    else:
        run, weights = ours, target
    # Sums run in another order in blocks of other shapes.
    close = partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)
    close(jax.jit(run)(net, sharded, weights), expected)
    if both:
        specs = (P(), P("data"), P("data") if images else P())
        mapped = jax.shard_map(run, mesh=MESH, in_specs=specs, out_specs=P("data"))
        close(jax.jit(mapped)(net, x, weights), expected)
    print(what, flush=True)


def main():
    nets, x = networks()
    targets = {
        "predicted": "predicted",
        "contrast": "contrast",
        "classes": jnp.arange(len(x)) % CLASSES,
        "weights": jnp.linspace(-1.0, 1.0, CLASSES),
        "weights an image": inputs((CLASSES,)),
    }
    units = {"function": ("hidden", 2), "linen": ("Dense_0", 2), "nnx": ("first", 2)}
    for name, target in targets.items():
        compare(name, nets["function"], x, target, QUADRATURES["trapezoid"], units["function"], both=True)
    for name, quadrature in QUADRATURES.items():
        compare(name, nets["function"], x, "predicted", quadrature, units["function"], both=True)
    for name in ("linen", "nnx"):
        compare(name, nets[name], x, "predicted", QUADRATURES["trapezoid"], units[name], both=True)
    resnet = ports.load("resnet18", "random", width=8, num_classes=CLASSES * 2)
    images = np.asarray(inputs((32, 32, 3), 8))
    compare("resnet", resnet, jnp.asarray(images), "contrast", QUADRATURES["trapezoid"], ("layer4.1", (0, 0, 3)), both=False)


if __name__ == "__main__":
    main()
