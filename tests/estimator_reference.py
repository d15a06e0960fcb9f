"""Slow, literal NumPy float64 versions of the estimators: the formulas of their docstrings, for tests only."""

import numpy as np
from scipy.special import logsumexp


def squared_distances(x):
    x = np.asarray(x, np.float64)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x])


def noise_variance(x, noise):
    """noise x the lower median of the squared distances, of at most 500 samples, drawn with seed 0."""
    sample = x if len(x) <= 500 else x[np.sort(np.random.default_rng(0).choice(len(x), 500, replace=False))]
    pairs = squared_distances(sample)[np.triu_indices(len(sample), 1)]
    return noise * np.quantile(pairs, 0.5, method="inverted_cdf")


def pairwise_bound(exponents, member):
    """-1/n Σ_i ln (mean over j with member[i, j] of exp(-exponents[i, j]))."""
    exponents = np.where(member, exponents, np.inf)
    return -np.mean(logsumexp(-exponents, axis=1) - np.log(member.sum(axis=1)))


def kde(x, y, noise):
    """(value, lower, upper) for integer labels y."""
    d, scale = squared_distances(x), noise_variance(x, noise)
    everyone, same = np.ones((len(x), len(x)), bool), np.equal.outer(y, y)
    kl_all, kl_class = (pairwise_bound(d / (2 * scale), member) for member in (everyone, same))
    bd_all, bd_class = (pairwise_bound(d / (8 * scale), member) for member in (everyone, same))
    return kl_all - kl_class, bd_all - kl_class, kl_all - bd_class


def kde_continuous(x, y, noise):
    """(value, lower, upper) for floating y."""
    a = squared_distances(x) / noise_variance(x, noise)
    b = squared_distances(y) / noise_variance(y, noise)
    everyone = np.ones_like(a, bool)
    kl = [pairwise_bound(d / 2, everyone) for d in (a, b, a + b)]
    bd = [pairwise_bound(d / 8, everyone) for d in (a, b, a + b)]
    return kl[0] + kl[1] - kl[2], bd[0] + bd[1] - kl[2], kl[0] + kl[1] - bd[2]


def row_counts(rows):
    return np.unique(rows, axis=0, return_counts=True)[1]


def entropy(counts):
    p = counts / counts.sum()
    return -np.sum(p * np.log(p))


def codes(x, num_bins, edges):
    if edges == "uniform":
        inner = np.linspace(x.min(), x.max(), num_bins + 1)[1:-1]
    else:
        inner = np.quantile(x, np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.searchsorted(inner, x, side="right")


def binned(x_codes, y_codes):
    """(plug-in, Miller-Madow) information between two sets of row codes."""
    of_x, of_y, joint = (row_counts(c) for c in (x_codes, y_codes, np.concatenate([x_codes, y_codes], axis=1)))
    plug_in = entropy(of_x) + entropy(of_y) - entropy(joint)
    return plug_in, plug_in + (len(of_x) + len(of_y) - len(joint) - 1) / (2 * len(x_codes))


def probe(x, y, folds, ridges, inverse_temperatures):
    """H(Y) - held-out cross-entropy of the calibrated discriminant; integer labels y, and each sample's fold."""
    num_folds, classes, counts = folds.max() + 1, np.arange(y.max() + 1), np.bincount(y)
    gains = np.empty(len(y))
    for fold in range(num_folds):
        test, calibration = folds == fold, folds == (fold + 1) % num_folds
        fit, doubt = ~(test | calibration), 1 / (calibration.sum() + 1)
        mean, deviation, varies = x[fit].mean(axis=0), x[fit].std(axis=0), np.ptp(x[fit], axis=0) > 0
        z = (x - mean) / np.where(varies, deviation, 1)
        means = np.array([z[fit & (y == c)].mean(axis=0) for c in classes])
        covariance = np.mean([np.outer(row - means[c], row - means[c]) for row, c in zip(z[fit], y[fit], strict=True)], 0)
        prior = np.log(np.bincount(y, minlength=len(classes)) / len(y))
        best, chosen = -np.inf, None
        for ridge in ridges:
            shrunk = covariance + (ridge * np.trace(covariance) / varies.sum() + 1e-6) * np.eye(x.shape[1])
            directions = np.linalg.inv(shrunk) @ means.T
            scores = z @ directions - np.sum(means.T * directions, axis=0) / 2
            for inverse_temperature in inverse_temperatures:
                logits = inverse_temperature * scores + prior
                q = (1 - doubt) * np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) + doubt * np.exp(prior)
                log_q = np.log(q[np.arange(len(y)), y])
                if log_q[calibration].sum() > best:
                    best, chosen = log_q[calibration].sum(), log_q
        gains[test] = chosen[test]
    return np.mean(gains - np.log(counts / len(y))[y])
