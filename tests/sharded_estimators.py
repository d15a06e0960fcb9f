"""Run by test_sharding.py: estimates whose rows are spread over all devices, those of other processes too, against one device.

Arguments: nothing, or a port and the number of this process of two.
"""

import sys
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

import ipjax
from ipjax.channels import measure_channels
from ipjax.estimators import CKA, KDE, KSG, Labels, Projected, Renyi, Ross, mutual_information
from ipjax.information_plane import profile

N = 121  # which no number of devices divides
close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


def data(n=N):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 4
    x = (rng.normal(size=(n, 5)) + y[:, None]).astype(np.float32)
    return x, y, (x[:, :2] + rng.normal(size=(n, 2))).astype(np.float32)


def estimates():
    x, y, other = data()
    pairwise = {
        "kde": (y, KDE()),
        "kde, own labels": (np.arange(N), KDE()),
        "ross": (y, Ross()),
        "ksg": (other, KSG()),
        "ksg, variant 2": (other, KSG(variant=2)),
        "renyi": (y, Renyi()),
        "projected": (y, Projected(Ross(), 2)),
    }
    found = {name: jax.device_get(mutual_information(x, of_y, estimator)) for name, (of_y, estimator) in pairwise.items()}
    # Of more rows than a block has.
    x, y, other = data(521)
    found |= {
        "many": float(mutual_information(x, y, KDE()).value),
        "many, ksg": float(mutual_information(x, other, KSG()).value),
    }
    found["given on devices"] = float(mutual_information(jnp.asarray(x), jnp.asarray(y), KDE()).value)
    return found | {"cka": float(CKA("gaussian")(x, other))}


def gradient():
    x, y, _ = data()
    value = jax.jit(lambda x: mutual_information(x, Labels(jnp.asarray(y), 4), KDE()).value)
    return {"gradient": jax.device_get(jax.grad(value)(jnp.asarray(x)))}


def planes():
    x, y, _ = data()
    representations = {"predicted": x, "contrast": x**2}
    measured = [
        ipjax.measure_plane({"layer": value}, y, input_information=None, representation=name, num_null=3, num_subsamples=3)
        for name, value in representations.items()
    ]
    both = ipjax.InformationPlane(tuple(record for plane in measured for record in plane.records))
    leak = ipjax.target_leakage(both)["layer"]
    others = (
        profile({"layer": x}, y, KDE(), "noise", (0.1, 1.0)),
        measure_channels({"layer": x}, y, num_null=1),
    )
    records = [record for plane in (both, *others) for record in plane.records]
    numbers = [{k: v for k, v in record.items() if v is not None and not isinstance(v, str)} for record in records]
    return {"records": numbers, "leak": (leak.value, leak.lower, leak.upper)}


def main(port=None, process=None):
    if port is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    work = (planes,) if port else (estimates, gradient)
    expected = [part() for part in work]
    with jax.set_mesh(jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))):
        for part, alone in zip(work, expected, strict=True):
            close(part(), alone)
        rows = jax.jit(KDE()).lower(*map(jnp.asarray, data()[::2]), jax.random.key(0)).compile().as_text()
        assert "all-gather" in rows  # or the work was not spread


if __name__ == "__main__":
    main(*sys.argv[1:])
