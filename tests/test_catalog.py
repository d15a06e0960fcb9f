"""The catalog against torchvision's enums and timm's registry: every row, and no row too few."""

import math
import re

import pytest
import torch
from torch_reference import torchvision

# isort: split
import timm  # after torch_reference: it imports torchvision, too

from ports.catalog import CATALOG, Entry, File, Repository, find

NETWORKS = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
NETWORKS += [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
TORCHVISION = [entry for entry in CATALOG if isinstance(entry.location, File)]
TIMM = [entry for entry in CATALOG if isinstance(entry.location, Repository)]
LISTED = {
    (network, row.name): row
    for network in NETWORKS
    for row in torchvision.models.get_model_weights(network)
    if row.name != "IMAGENET1K_FEATURES"
}
HUB = [name for network in NETWORKS for name in timm.list_models(f"{network}.tv*_in1k", pretrained=True)]


def named(entry):
    return f"{entry.network}-{entry.weights}"


def test_nothing_is_missing_twice_or_made_up():
    assert [(entry.network, entry.weights) for entry in TORCHVISION] == list(LISTED)
    assert sorted(entry.weights for entry in TIMM) == sorted(HUB)
    assert len(CATALOG) == len(TORCHVISION) + len(TIMM) == len({(entry.network, entry.weights) for entry in CATALOG})


@pytest.mark.parametrize("entry", TORCHVISION, ids=named)
def test_torchvisions_rows(entry: Entry):
    row = LISTED[entry.network, entry.weights]
    assert f"https://download.pytorch.org/models/{entry.location.name}" == row.url
    prefix = torch.hub.HASH_REGEX.search(row.url)
    assert prefix is not None and entry.location.sha256 == prefix.group(1)
    assert re.fullmatch(r"[0-9a-f]{8}", entry.location.sha256)
    assert {"acc@1": entry.top1, "acc@5": entry.top5} == row.meta["_metrics"]["ImageNet-1K"]
    assert entry.keys == "torchvision"
    transforms, ours = row.transforms(), entry.preprocessing
    assert ([ours.resize], [ours.crop]) == (transforms.resize_size, transforms.crop_size)
    assert (list(ours.mean), list(ours.std)) == (transforms.mean, transforms.std)
    assert transforms.interpolation.value == "bilinear" and transforms.antialias


@pytest.mark.parametrize("entry", TIMM, ids=named)
def test_timms_rows(entry: Entry):
    row = timm.get_pretrained_cfg(entry.weights)
    assert entry.weights.partition(".")[0] == entry.network == row.architecture
    assert entry.location.name == row.hf_hub_id
    ours = entry.preprocessing
    size, crop = row.test_input_size or row.input_size, row.test_crop_pct or row.crop_pct
    assert (3, ours.crop, ours.crop) == size
    assert ours.resize == math.floor(ours.crop / crop)  # timm's own rounding
    assert (ours.mean, ours.std) == (row.mean, row.std)
    assert row.interpolation == "bilinear" and row.num_classes == 1000


@pytest.mark.parametrize("entry", TIMM, ids=named)
def test_timms_rows_are_torchvisions_weights(entry: Entry):
    generation = "IMAGENET1K_V2" if ".tv2_" in entry.weights else "IMAGENET1K_V1"
    original = find(entry.network, generation)
    assert (entry.top1, entry.top5, entry.preprocessing) == (original.top1, original.top5, original.preprocessing)
    if url := timm.get_pretrained_cfg(entry.weights).url:  # where timm got them from; its VGGs do not say
        assert url == LISTED[entry.network, generation].url


@pytest.mark.parametrize("entry", TIMM, ids=named)
def test_whose_keys_the_file_has(entry: Entry):
    with torch.device("meta"):
        theirs = timm.create_model(entry.network).state_dict()
        torchvisions = torchvision.models.get_model(entry.network).state_dict()
    same = {key: value.shape for key, value in theirs.items()} == {key: value.shape for key, value in torchvisions.items()}
    assert entry.keys == ("torchvision" if same else "timm")


@pytest.mark.parametrize("entry", CATALOG, ids=named)
def test_every_row_is_found(entry: Entry):
    assert find(entry.network, entry.weights) is entry


@pytest.mark.parametrize(
    ("network", "weights", "meant"),
    [
        ("resnet50", "imagenet1k_v1", "IMAGENET1K_V1"),
        ("resnet50", "V1", "IMAGENET1K_V1"),
        ("resnet50", "v2", "IMAGENET1K_V2"),
        ("resnet50", "IMAGENET1K-V2", "IMAGENET1K_V2"),
        ("resnet50", "tv2_in1k", "resnet50.tv2_in1k"),
        ("vgg16_bn", "timm/vgg16_bn.tv_in1k", "vgg16_bn.tv_in1k"),
        ("vgg16", "vgg16_bn.tv_in1k", "vgg16.tv_in1k"),
    ],
)
def test_near_misses_are_errors_with_a_suggestion(network, weights, meant):
    with pytest.raises(KeyError) as error:
        find(network, weights)
    message = error.value.args[0]
    assert message.startswith(f"weights of {network}: expected one of IMAGENET1K_V1, ")
    assert message.endswith(f", got {weights!r}; did you mean {meant}?")


@pytest.mark.parametrize("weights", ["", "resnext", "IMAGENET22K_FULL_LONG_NAME_OF_ANOTHER_SORT"])
def test_other_names_list_what_there_is(weights):
    with pytest.raises(KeyError) as error:
        find("resnet18", weights)
    assert error.value.args[0] == f"weights of resnet18: expected one of IMAGENET1K_V1, resnet18.tv_in1k, got {weights!r}"


def test_weights_that_a_network_lacks():
    with pytest.raises(KeyError, match="got 'IMAGENET1K_V2'"):
        find("resnet18", "IMAGENET1K_V2")


def test_unknown_network():
    with pytest.raises(
        KeyError, match=r"network: expected one of resnet18, .*, vgg19_bn, got 'VGG16_BN'; did you mean vgg16_bn\?"
    ):
        find("VGG16_BN", "IMAGENET1K_V1")


def test_default_is_refused():
    with pytest.raises(KeyError, match=r"DEFAULT names other .* of torchvision; expected one of IMAGENET1K_V1, "):
        find("resnet50", "DEFAULT")


def test_features_without_a_classifier_are_refused_by_name():
    assert math.isnan(torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.meta["_metrics"]["ImageNet-1K"]["acc@1"])
    with pytest.raises(ValueError, match=r"IMAGENET1K_FEATURES has no trained classifier .* expected one of IMAGENET1K_V1"):
        find("vgg16", "IMAGENET1K_FEATURES")
    with pytest.raises(KeyError, match="expected one of IMAGENET1K_V1"):
        find("vgg19", "IMAGENET1K_FEATURES")
