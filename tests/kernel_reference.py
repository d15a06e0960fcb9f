"""Slow, literal NumPy float64 versions of the Gaussian channel, Rényi, HSIC and the variational bounds, for tests only."""

import numpy as np
from estimator_reference import entropy, noise_variance, squared_distances


def half_logdet(x, variance):
    """½ ln det(I + Σ/s²) with Σ the covariance over n."""
    covariance = np.atleast_2d(np.cov(x, rowvar=False, bias=True))
    return np.linalg.slogdet(np.eye(len(covariance)) + covariance / variance)[1] / 2


def gaussian_channel(x, y, noise):
    """(value, lower, upper, ceiling) for integer labels y."""
    variance = noise_variance(x, noise)
    everyone, value = (half_logdet(x, variance),) * 2
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        if count > 1:
            value -= count / len(x) * half_logdet(x[y == label], variance)
    return value, 0.0, everyone, entropy(np.unique(y, return_counts=True)[1])


def gaussian_channel_continuous(x, y, noise):
    a, b = x / np.sqrt(noise_variance(x, noise)), y / np.sqrt(noise_variance(y, noise))
    of_x, of_y, joint = (half_logdet(side, 1.0) for side in (a, b, np.concatenate([a, b], axis=1)))
    return of_x + of_y - joint, 0.0, min(of_x, of_y), np.log(len(x))


def gaussian_kernel(x, width):
    """For x [n, *space, channels] the product over the channels, each with a width of its own."""
    channels = [x] if x.ndim == 2 else [x[..., c].reshape(len(x), -1) for c in range(x.shape[-1])]
    return np.prod([np.exp(-squared_distances(c) / (2 * noise_variance(c, width))) for c in channels], axis=0)


def matrix_entropy(kernel, alpha):
    return entropy_of_spectrum(kernel / np.trace(kernel), alpha)


def entropy_of_spectrum(a, alpha):
    eigenvalues = np.linalg.eigvalsh(a)
    eigenvalues = eigenvalues[eigenvalues > np.finfo(float).eps]
    if alpha == 1:
        return -np.sum(eigenvalues * np.log(eigenvalues))
    return np.log(np.sum(eigenvalues**alpha)) / (1 - alpha)


def renyi(kernel_x, kernel_y, alpha):
    a, b, joint = (matrix_entropy(kernel, alpha) for kernel in (kernel_x, kernel_y, kernel_x * kernel_y))
    return a + b - joint


def renyi_interval(kernel_x, kernel_y, alpha):
    """Half a 95 % interval, from the information's derivatives in weights of the samples, by differences."""
    n, step = len(kernel_x), 1e-4

    def weighted(i, change):
        w = np.ones(n)
        w[i] += change
        root = np.sqrt(np.outer(w, w)) / n
        a, b, joint = (entropy_of_spectrum(k * root, alpha) for k in (kernel_x, kernel_y, kernel_x * kernel_y))
        return a + b - joint

    slopes = [n * (weighted(i, step) - weighted(i, -step)) / (2 * step) for i in range(n)]
    return 1.96 * np.std(slopes) / np.sqrt(n)


def centring(n):
    return np.eye(n) - np.ones((n, n)) / n


def hsic_biased(k, l):  # noqa: E741
    h = centring(len(k))
    return np.trace(k @ h @ l @ h) / (len(k) - 1) ** 2


def hsic_unbiased(k, l):  # noqa: E741
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    first = np.trace(k @ l)
    second = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (one @ k @ l @ one)
    return (first + second - third) / (n * (n - 3))


def infonce(scores):
    return np.mean([scores[i, i] - np.log(np.mean(np.exp(scores[i]))) for i in range(len(scores))])


def others(scores):
    return np.array([scores[i, j] for i in range(len(scores)) for j in range(len(scores)) if i != j])


def nwj(scores):
    """Poole et al.'s E f - e⁻¹ E e^f, of the critic f + 1."""
    return np.mean(np.diag(scores) + 1) - np.mean(np.exp(others(scores) + 1)) / np.e


def donsker_varadhan(scores):
    return np.mean(np.diag(scores)) - np.log(np.mean(np.exp(others(scores))))


def smile(scores, clip):
    return np.mean(np.diag(scores)) - np.log(np.mean(np.clip(np.exp(others(scores)), np.exp(-clip), np.exp(clip))))


def jensen_shannon(scores):
    return np.mean(-np.log1p(np.exp(-np.diag(scores)))) - np.mean(np.log1p(np.exp(others(scores))))
