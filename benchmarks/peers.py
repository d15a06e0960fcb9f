"""Estimators of other libraries, run in an environment of their own: `python peers.py ESTIMATOR SAMPLES REPEATS`.

Imports nothing of this library. SAMPLES is an .npz file of arrays x0, y0, x1, y1, ...; out comes a line of JSON with a pair
(nats, seconds) for each, the seconds being the median of the repeats. `benchmarks.estimators` calls it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

Work = Callable[[np.ndarray, np.ndarray], float]
K = 3  # neighbours, of all


def bmi(name: str, **settings: Any) -> Work:
    estimator = getattr(import_module("bmi.estimators"), name)
    return lambda x, y: estimator(**settings).estimate(x, y)


def infomeasure(**settings: Any) -> Work:
    return partial(import_module("infomeasure").mutual_information, k=K, noise_level=0, approach="ksg", **settings)


def npeet(name: str) -> Work:
    function = getattr(import_module("npeet_plus"), name)
    return lambda x, y: function(x, y.reshape(len(y), -1), k=K, base=np.e)


def sklearn(name: str) -> Work:
    function = getattr(import_module("sklearn.feature_selection"), name)
    return lambda x, y: function(x, y.ravel(), n_neighbors=K, random_state=0)[0]


ESTIMATORS: dict[str, Callable[[], Work]] = {
    "bmi KSG": lambda: bmi("KSGEnsembleFirstEstimator", neighborhoods=(K,), metric_x="chebyshev"),
    "bmi KSG, as it is": lambda: bmi("KSGEnsembleFirstEstimator", neighborhoods=(K,), metric_x="chebyshev", standardize=False),
    "bmi KSG, Euclidean": lambda: bmi("KSGEnsembleFirstEstimator", neighborhoods=(K,), standardize=False),
    "bmi histogram": lambda: bmi("HistogramEstimator", n_bins_x=10),
    "bmi KDE": lambda: bmi("KDEMutualInformationEstimator"),
    "bmi CCA": lambda: bmi("CCAMutualInformationEstimator"),
    "bmi InfoNCE": lambda: bmi("InfoNCEEstimator", verbose=False),
    "bmi NWJ": lambda: bmi("NWJEstimator", verbose=False),
    "bmi DV": lambda: bmi("DonskerVaradhanEstimator", verbose=False),
    "infomeasure KSG": lambda: infomeasure(),
    "infomeasure KSG 2": lambda: infomeasure(ksg_id=2),
    "npeet KSG": lambda: npeet("mi"),
    "npeet mixed": lambda: npeet("micd"),
    "sklearn KSG": lambda: sklearn("mutual_info_regression"),
    "sklearn Ross": lambda: sklearn("mutual_info_classif"),
}


def main(name: str, samples: str, repeats: int) -> None:
    work = ESTIMATORS[name]()
    results = []
    with np.load(samples) as arrays:
        for i in range(len(arrays.files) // 2):
            x, y = arrays[f"x{i}"], arrays[f"y{i}"]
            seconds, value = [], np.nan
            for _ in range(repeats):
                start = time.perf_counter()
                value = float(work(x, y))
                seconds.append(time.perf_counter() - start)
            results.append((value, statistics.median(seconds)))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
