"""Target leakage: label information that the choice of the target, and not the layer, puts into a conductance.

The gradient of a conductance toward the predicted class is taken toward a class that was chosen by looking at the image, so
every layer seems to know it. A target that does not depend on the image is given nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipjax.assessment import spread
from ipjax.files import Record
from ipjax.information_plane import InformationPlane


@dataclass(frozen=True)
class Leak:
    """What choosing the target by looking at the image adds to a layer's label information, in nats; `None` where not measured.

    **Attributes:**

    - `value`: I(C_predicted; Y) - I(C_contrast; Y).
    - `lower`, `upper`: its 95 % interval from the halves of the sample, which both share: the sampling spread alone, neither
        the estimator's bias nor what another contrast would give.
    - `null`: I(C_random; Y) - I(C_contrast; Y), the same of a class drawn for each image without looking at it. One draw, and
        not 0 where there is no leak: conductances to many classes are mixed, which by itself hides the label.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    null: float | None = None


def target_leakage(
    plane: InformationPlane, *, predicted: str = "predicted", contrast: str = "contrast", random: str = "random"
) -> dict[str, Leak]:
    """The leak at every layer that has both conductances, from a plane with one record a layer and representation.

    **Arguments:**

    - `predicted`, `contrast`, `random`: the representations of conductances to a target chosen from the image, to one fixed
        direction of the logits, and to a class a image at random (which the plane may lack). Measured by `measure_plane` on
        the same images with the same seed, so that their halves are paired.

    **Raises:** `KeyError` for a representation that the plane lacks; `ValueError` where a layer has several records of one,
    where the label information was not measured, and where it was measured in different ways.
    """
    chosen, fixed, drawn = (_by_layer(plane, name) for name in (predicted, contrast, random))
    for name, records in ((predicted, chosen), (contrast, fixed)):
        if not records:
            has = ", ".join(dict.fromkeys(str(record.get("representation")) for record in plane.records))
            raise KeyError(f"expected records of the representation {name!r}, the plane has {has or 'none'}")
    return {layer: _leak(chosen[layer], fixed[layer], drawn.get(layer)) for layer in chosen if layer in fixed}


def _leak(chosen: Record, fixed: Record, drawn: Record | None) -> Leak:
    _check_alike(chosen, fixed, *([] if drawn is None else [drawn]))
    value = chosen["label_information"] - fixed["label_information"]
    null = None if drawn is None else drawn["label_information"] - fixed["label_information"]
    of_chosen, of_fixed = (record.get("label_subsamples") or () for record in (chosen, fixed))
    if len(of_chosen) != len(of_fixed):
        raise ValueError(
            f"layer {chosen['layer']!r}: expected as many halves of both conductances, got {len(of_chosen)} and "
            f"{len(of_fixed)}; measure them with the same num_subsamples"
        )
    if not of_chosen:
        return Leak(value, null=null)
    margin = spread(np.subtract(of_chosen, of_fixed))
    return Leak(value, value - margin, value + margin, null)


def _by_layer(plane: InformationPlane, representation: str) -> dict[str, Record]:
    records = [record for record in plane.records if record.get("representation") == representation]
    by_layer = {record["layer"]: record for record in records}
    if len(by_layer) < len(records):
        estimators = ", ".join(dict.fromkeys(str(record.get("label_estimator")) for record in records))
        raise ValueError(
            f"plane: expected one record a layer of {representation!r}, got several, by {estimators}; "
            "choose with plane.select(label_estimator=...)"
        )
    return by_layer


def _check_alike(*records: Record) -> None:
    layer = records[0]["layer"]
    for record in records:
        if record.get("label_information") is None:
            raise ValueError(
                f"layer {layer!r}: expected label information of {record['representation']!r}, which was not measured; "
                "give measure_plane a label_information"
            )
    for key in ("label_estimator", "num_samples", "num_subsamples", "seed"):
        values = {record["representation"]: record.get(key) for record in records}
        if len(set(values.values())) > 1:
            raise ValueError(f"layer {layer!r}: expected the same {key} of all, got {values}; measure them in the same way")
