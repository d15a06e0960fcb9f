"""Every published set of weights of the architectures in `ipjax.models`, by the names their publishers gave them.

Names, files and accuracies are those of torchvision's `WeightsEnum`s (https://docs.pytorch.org/vision/stable/models.html).
timm publishes the same weights again on the Hugging Face hub (https://huggingface.co/timm), as `<network>.tv_in1k` and
`<network>.tv2_in1k`; their accuracies and preprocessing here are torchvision's, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from ipjax.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class File:
    """A file below https://download.pytorch.org/models/; its name ends in the first digits of its sha256."""

    name: str

    @property
    def sha256(self) -> str:
        """The first eight hexadecimal digits."""
        return self.name.rpartition("-")[2].partition(".")[0]


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub that holds `model.safetensors`."""

    name: str


@dataclass(frozen=True)
class Entry:
    """One set of weights."""

    network: str
    weights: str
    location: File | Repository
    keys: Literal["torchvision", "timm"]
    """whose names the parameters have in the file"""
    preprocessing: Preprocessing
    """of the images in the published evaluation"""
    top1: float
    """published accuracy on the 50,000 validation images of ImageNet-1k, in percent"""
    top5: float


def find(network: str, weights: str) -> Entry:
    """The entry of these very names.

    **Raises:** `KeyError` that lists what there is; `ValueError` for vgg16's `IMAGENET1K_FEATURES`, which cannot classify.
    """
    entries = {entry.weights: entry for entry in CATALOG if entry.network == network}
    if not entries:
        raise KeyError(_unknown("network", network, list(dict.fromkeys(entry.network for entry in CATALOG))))
    if network == "vgg16" and weights == "IMAGENET1K_FEATURES":
        raise ValueError(
            "weights: IMAGENET1K_FEATURES has no trained classifier (its last layers are NaN) and expects images of another "
            f"mean and scale; expected one of {', '.join(entries)}"
        )
    if weights == "DEFAULT":
        raise KeyError(
            f"weights: DEFAULT names other weights in other releases of torchvision; expected one of {', '.join(entries)}"
        )
    if weights not in entries:
        raise KeyError(_unknown(f"weights of {network}", weights, list(entries)))
    return entries[weights]


def _unknown(what: str, name: str, known: list[str]) -> str:
    folded = {other.casefold(): other for other in known}
    ends = [other for other in folded if name and other.endswith(name.casefold())]
    near = [folded[other] for other in ends or get_close_matches(name.casefold(), folded, n=1)]
    question = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{what}: expected one of {', '.join(known)}, got {name!r}{question}"


_PUBLISHED = (  # network, torchvision's name, its file, top-1 and top-5 in percent
    ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 69.758, 89.078),
    ("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 73.314, 91.42),
    ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 76.13, 92.862),
    ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 80.858, 95.434),
    ("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 77.374, 93.546),
    ("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 81.886, 95.78),
    ("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 78.312, 94.046),
    ("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 82.284, 96.002),
    ("vgg11", "IMAGENET1K_V1", "vgg11-8a719046.pth", 69.02, 88.628),
    ("vgg11_bn", "IMAGENET1K_V1", "vgg11_bn-6002323d.pth", 70.37, 89.81),
    ("vgg13", "IMAGENET1K_V1", "vgg13-19584684.pth", 69.928, 89.246),
    ("vgg13_bn", "IMAGENET1K_V1", "vgg13_bn-abd245e5.pth", 71.586, 90.374),
    ("vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth", 71.592, 90.382),
    ("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth", 73.36, 91.516),
    ("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth", 72.376, 90.876),
    ("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth", 74.218, 91.842),
)
_RESIZE = {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232}  # pixels of the short side
_TIMM = {"IMAGENET1K_V1": "tv_in1k", "IMAGENET1K_V2": "tv2_in1k"}


def _entries(network: str, weights: str, file: str, top1: float, top5: float) -> tuple[Entry, Entry]:
    """torchvision's, and timm's of the same weights: its VGGs have convolutions for a classifier, under names of its own."""
    preprocessing = Preprocessing(resize=_RESIZE[weights])
    timm = f"{network}.{_TIMM[weights]}"
    timm_keys = "timm" if network.startswith("vgg") else "torchvision"
    return (
        Entry(network, weights, File(file), "torchvision", preprocessing, top1, top5),
        Entry(network, timm, Repository(f"timm/{timm}"), timm_keys, preprocessing, top1, top5),
    )


CATALOG = tuple(entry for row in _PUBLISHED for entry in _entries(*row))
