"""Information planes through training: whether what a layer keeps of its input falls again.

Shwartz-Ziv and Tishby 2017 (arXiv:1703.00810) describe a short fitting phase, in which I(X; C) rises, and a long compression
phase, in which it falls. Saxe et al. 2018 find the second with tanh and not with ReLU. Here the fall is a number with an
interval over networks that differ by their seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from ipjax.files import Record
from ipjax.names import BITS

_LEAST_DROP = 0.05  # of the largest value: less is not called compression, since the largest of many values is so by chance too
_OF_ONE_LAYER = ("network", "representation", "estimator", "layer", "depth")


def compression(records: Sequence[Record]) -> tuple[Record, ...]:
    """How far I(X; C) falls after its largest value, for every network, representation, estimator and layer.

    **Arguments:**

    - `records`: of planes, each with `network`, `seed`, `epoch`, `estimator`.

    **Returns** records, in nats, means over the seeds:

    - `largest`, `largest_epoch` (the seeds' median): where fitting ends and compression begins. `rise`: from the first
        checkpoint to there. `last`: at the end.
    - `drop`: largest - last, with `drop_lower`, `drop_upper`, its 95 % interval (Student's t over the seeds; `None` for one).
    - `verdict`: `"compresses"` where the interval lies above 5 % of the largest value, `"does not compress"` where it lies
        below, else `"undecided"`, as for a single checkpoint; `"withheld"` where most seeds end saturated: a fall could not be
        seen.
    - `sentence`: the same in words and bits.

    **Raises:** `ValueError` for no records, numbers that are not finite, or where seeds were not measured at the same epochs.
    """
    if not records:
        raise ValueError("records: expected at least one, got none")
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in _OF_ONE_LAYER), []).append(record)
    return tuple(_of_layer(rows) for rows in groups.values())


def by_seed(records: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs `[e]` and one layer's values `[seeds, e]` of a key.

    **Raises:** `ValueError` where seeds were not measured at the same epochs.
    """
    of_seed: dict[int, dict[int, float]] = {}
    for record in records:
        of_seed.setdefault(record["seed"], {})[record["epoch"]] = record[key]
    first, *others = (sorted(values) for values in of_seed.values())
    if any(other != first for other in others) or len(records) != len(of_seed) * len(first):
        raise ValueError(
            f"records: expected each of the seeds {sorted(of_seed)} once at the same epochs, got {len(records)} records of "
            f"{len(first)} epochs; pass those of whole runs"
        )
    return np.array(first), np.array([[values[epoch] for epoch in first] for values in of_seed.values()], float)


def _of_layer(rows: list[Record]) -> Record:
    epochs, values = by_seed(rows, "input_information")
    if not np.isfinite(values).all():
        who = f"{rows[0]['representation']} of {rows[0]['layer']} by {rows[0]['estimator']}"
        raise ValueError(f"records: expected finite numbers as input_information, {who} has others; leave the layer out")
    _, saturated = by_seed(rows, "input_saturated")
    peak, largest = np.argmax(values, axis=1), np.max(values, axis=1)
    drops = largest - values[:, -1]
    drop, margin = float(np.mean(drops)), None
    if len(drops) > 1:
        margin = float(stdtrit(len(drops) - 1, 0.975) * np.std(drops, ddof=1) / np.sqrt(len(drops)))
    least = _LEAST_DROP * max(0.0, float(np.mean(largest)))
    if np.mean(saturated[:, -1]) > 0.5:
        verdict = "withheld"
    elif margin is not None and drop - margin > least:
        verdict = "compresses"
    elif margin is not None and drop + margin < least and len(epochs) > 1:
        verdict = "does not compress"
    else:
        verdict = "undecided"
    record: Record = {key: rows[0][key] for key in _OF_ONE_LAYER} | {
        "num_seeds": len(drops),
        "largest": float(np.mean(largest)),
        "largest_epoch": float(np.median(epochs[peak])),
        "rise": float(np.mean(largest - values[:, 0])),
        "last": float(np.mean(values[:, -1])),
        "drop": drop,
        "drop_lower": None if margin is None else drop - margin,
        "drop_upper": None if margin is None else drop + margin,
        "verdict": verdict,
    }
    return record | {"sentence": _sentence(record)}


def _sentence(record: Record) -> str:
    who = f"{record['representation']} of {record['layer']} by {record['estimator']}"
    in_bits = {key: record[key] * BITS for key in ("largest", "rise", "last", "drop")}
    if record["verdict"] == "withheld":
        return (
            f"{who}: withheld; I(X;C) rises by {in_bits['rise']:.2f} bits and ends saturated at {in_bits['last']:.2f}, so a "
            "fall could not be seen"
        )
    over = "one seed"
    if record["drop_lower"] is not None:
        lower, upper = record["drop_lower"] * BITS, record["drop_upper"] * BITS
        over = f"95 % interval {lower:.2f} to {upper:.2f} over {record['num_seeds']} seeds"
    since = f"at epoch {record['largest_epoch']:.0f}" if record["largest_epoch"] > 0 else "before training"
    return (
        f"{who}: {record['verdict']}; I(X;C) falls by {in_bits['drop']:.2f} bits ({over}) from {in_bits['largest']:.2f} {since}"
    )
