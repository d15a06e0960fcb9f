"""The published weights themselves: `pytest -m pretrained`, where there is a network (some 1.3 GB are downloaded once)."""

import hashlib

import jax
import numpy as np
import pytest
import torch
import torch_reference
from sklearn.datasets import load_sample_images

import ports
from ports import catalog

WEIGHTS = [
    ("resnet50", "IMAGENET1K_V1"),
    ("resnet50", "IMAGENET1K_V2"),
    ("resnet50", "resnet50.tv_in1k"),
    ("vgg16", "IMAGENET1K_V1"),
    ("vgg16", "vgg16.tv_in1k"),
    ("vgg16_bn", "IMAGENET1K_V1"),
]


@pytest.mark.pretrained
@pytest.mark.parametrize(("name", "weights"), WEIGHTS)
def test_published_weights_see_the_photographs_as_torchvision_does(name, weights):
    entry = catalog.find(name, weights)
    path = ports.locate(name, weights)
    if isinstance(entry.location, catalog.File):
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(entry.location.sha256)
    photographs = load_sample_images().images
    x = np.stack([entry.preprocessing(photograph) for photograph in photographs])
    ours = np.asarray(jax.jit(lambda net, x: net(x))(ports.load(name, weights), x))

    model = torch_reference.network(name)
    if isinstance(entry.location, catalog.File):
        model.load_state_dict(torch.load(path, weights_only=True))
    else:  # torchvision's own network takes timm's weights by way of torchvision's keys
        state = ports.export(ports.load(name, weights), "torchvision")
        model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    with torch.no_grad():
        theirs = model(torch_reference.to_torch(x)).numpy()
    assert torch_reference.relative_error(ours, theirs) < 1e-4
    assert (np.argsort(ours)[:, -5:] == np.argsort(theirs)[:, -5:]).all()
