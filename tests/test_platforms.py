"""What runs on a CPU here can be lowered for GPUs and TPUs too: every operation has a rule there. It needs no such device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ipjax
import ports
from experiments.features import TARGETS, Extraction
from ipjax.estimators import KDE, KSG, Binned, Critic, GaussianChannel, InfoNCE, Labels, Probe, Renyi, Ross

PLATFORMS = ("cuda", "tpu")
SAMPLES = jax.random.normal(jax.random.key(0), (40, 3))
LABELS = Labels(jnp.arange(40) % 4, 4)
ESTIMATORS = {
    "kde": (KDE(0.05), LABELS),
    "kde, floating y": (KDE(0.05), SAMPLES),
    "probe": (Probe(), LABELS),
    "binned": (Binned(4, "quantile"), LABELS),
    "ksg": (KSG(variant=2), SAMPLES),
    "ross": (Ross(), LABELS),
    "gaussian": (GaussianChannel(0.5), SAMPLES),
    "renyi": (Renyi(width=1.0), SAMPLES),
    "critic": (InfoNCE(Critic(hidden=8, embedding=4, num_steps=2, num_folds=3)), SAMPLES),
}


def lowered(function, *arguments):
    """Names of the platforms that the function was lowered for."""
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).platforms


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(name):
    estimator, other = ESTIMATORS[name]
    assert lowered(lambda x: estimator(x, other, jax.random.key(0)).value, SAMPLES) == PLATFORMS


def test_features_of_the_main_program():
    net = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), ports.load("resnet18", "random", width=4, num_classes=10))
    images = np.zeros((2, 32, 32, 3), np.float32)
    extraction = Extraction(net, ("input", "layer1.1", "avgpool"), "sketch", 2, 0, images_at_once=2, nodes_at_once=3)
    targets = np.zeros((len(TARGETS), 2, 10), np.float32)
    assert lowered(lambda x, targets: extraction._conduct(extraction.net, x, targets), images, targets) == PLATFORMS
    assert lowered(lambda x: extraction._forward(extraction.net, x), images) == PLATFORMS


def test_other_attributions():
    net = ports.load("vgg11", "random", width=4, hidden=8, num_classes=10)
    x = np.zeros((1, 32, 32, 3), np.float32)
    assert lowered(lambda x: ipjax.sensitivity(net, x), x) == PLATFORMS
    assert lowered(lambda x: ipjax.neuron_conductance(net, x, net.layers(x)[1], (0, 0, 0)), x) == PLATFORMS


def test_an_operation_without_a_rule_is_noticed():
    with pytest.raises(Exception, match="schur"):
        lowered(lambda x: jax.lax.linalg.schur(x), jnp.eye(3))
