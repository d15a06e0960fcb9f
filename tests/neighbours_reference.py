"""Slow, literal NumPy float64 versions of the nearest-neighbour estimators, a sample at a time, for tests only."""

import numpy as np
from scipy.special import digamma


def distances(x, i):
    """Maximum norm of every sample's difference from sample i."""
    return np.abs(np.asarray(x, np.float64) - x[i]).max(axis=1)


def ksg(x, y, k=3, variant=1):
    """(value, standard error) of Kraskov et al. 2004, equations 8 and 9, of spaces of unit mean variance; coinciding samples as
    Gao et al. 2017."""
    n, local = len(x), []
    x_unit, y_unit = (np.sqrt(np.mean(np.var(side, axis=0))) for side in (x, y))
    for i in range(n):
        others = np.arange(n) != i
        of_x, of_y = distances(x, i)[others] / x_unit, distances(y, i)[others] / y_unit
        joint = np.maximum(of_x, of_y)
        radius = np.sort(joint)[k - 1]
        neighbours = joint <= radius
        if radius == 0:
            copies, in_x, in_y = (1 + np.sum(of == 0) for of in (joint, of_x, of_y))
            local.append(digamma(copies) + digamma(n) - digamma(in_x) - digamma(in_y))
        elif variant == 1:
            in_x, in_y = np.sum(of_x < radius), np.sum(of_y < radius)
            local.append(digamma(k) + digamma(n) - digamma(in_x + 1) - digamma(in_y + 1))
        else:
            in_x, in_y = (np.sum(of <= of[neighbours].max()) for of in (of_x, of_y))
            local.append(digamma(k) - 1 / k + digamma(n) - digamma(in_x) - digamma(in_y))
    return np.mean(local), np.std(local) / np.sqrt(n)


def ross(x, labels, k=3):
    """(value, standard error) of Ross 2014; small classes as scikit-learn, coinciding samples as Gao et al. 2017."""
    sizes = {label: np.sum(labels == label) for label in np.unique(labels)}
    kept = np.array([sizes[label] > 1 for label in labels])
    x, labels, n, local = x[kept], labels[kept], np.sum(kept), []
    for i in range(n):
        size = sizes[labels[i]]
        others = np.arange(n) != i
        of_all = distances(x, i)[others]
        of_class = of_all[labels[others] == labels[i]]
        neighbours = min(k, size - 1)
        radius = np.sort(of_class)[neighbours - 1]
        if radius == 0:
            neighbours, within = 1 + np.sum(of_class == 0), 1 + np.sum(of_all == 0)
        else:
            neighbours, within = np.sum(of_class <= radius), np.sum(of_all <= radius)
        local.append(digamma(n) - digamma(size) + digamma(neighbours) - digamma(within))
    return np.mean(local), np.std(local) / np.sqrt(n)
