"""Groups rows by meaning: a diffusion map of their embeddings, then a factorization whose parts are the groups.

    d_ij = |e_i - e_j|,   A_ij = exp(-d_ij^2 / (2 sigma^2)) with sigma the median distance,   D = diag(A 1)

The K eigenvectors of I - D^(-1/2) A D^(-1/2) with the smallest eigenvalues, mapped back with D^(-1/2), are Phi [n, K]. Their
similarity S = |Phi Phi^T| is factorized into non-negative W H of rank K, and a row belongs to its largest entry of W. K is
the number of eigenvalues before their largest gap, unless given: the gap is a ratio of the walk's eigenvalues 1 - lambda, since
the wide kernel leaves all but the first near 0. Everything is deterministic.

Memory is 3 n^2 numbers, so that a few thousand rows are embedded and further rows join the group of their nearest neighbour.

Paper: paser — PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.distance import cdist

from whet.errors import DataError

Floats = NDArray[np.float64]

MOST_CLUSTERS = 12
MOST_ROWS = 3000
"""Rows of the full decomposition: 0.2 GB."""


@dataclass(frozen=True)
class Clusters:
    """``labels`` [n], int: the group of each row, numbered by size from 0. ``eigenvalues``: the smallest ones, ascending."""

    labels: NDArray[np.int64]
    count: int
    eigenvalues: Floats


def spectral_clusters(embeddings: Floats, clusters: int | None = None, most: int = MOST_CLUSTERS) -> Clusters:
    """Groups rows.

    Args:
        embeddings: [n, width], finite.
        clusters: how many groups; default: the largest gap among the first ``most`` eigenvalues.
        most: groups that the gap may choose at most.

    Raises:
        DataError: fewer rows than groups, or an embedding that is not finite.
    """
    rows = len(embeddings)
    if not np.isfinite(embeddings).all():
        raise DataError(
            f"embedding of row {int(np.flatnonzero(~np.isfinite(embeddings).all(1))[0])} holds NaN or infinite values"
        )
    if rows < max(clusters or 2, 2) + 1:
        raise DataError(f"{rows} rows cannot be put into {clusters or 2} groups; give more rows or fewer clusters")
    chosen = np.linspace(0, rows - 1, min(rows, MOST_ROWS)).round().astype(int)
    sample = np.asarray(embeddings, np.float64)[chosen]
    values, phi = diffusion_map(sample, min(max(clusters or most, 2) + 1, len(sample)))
    count = clusters or eigengap(values)
    weights, _ = nmf(np.abs(phi[:, :count] @ phi[:, :count].T), count)
    labels = np.asarray(weights.argmax(1), np.int64)
    if len(chosen) < rows:
        labels = labels[_nearest(np.asarray(embeddings, np.float64), sample)]
    return Clusters(_by_size(labels), len(np.unique(labels)), values)


def diffusion_map(points: Floats, count: int) -> tuple[Floats, Floats]:
    """The ``count`` smallest eigenvalues of the normalized Laplacian of the rows' affinities, and their vectors [n, count]."""
    distances = cdist(points, points)
    sigma = float(np.median(distances[np.triu_indices(len(points), 1)]))
    affinity = np.exp(-(distances**2) / (2 * max(sigma, 1e-12) ** 2))
    root = 1.0 / np.sqrt(affinity.sum(1))
    laplacian = np.eye(len(points)) - root[:, None] * affinity * root[None, :]
    values, vectors = linalg.eigh(laplacian, subset_by_index=(0, count - 1))
    phi = root[:, None] * vectors
    return values, phi / np.linalg.norm(phi, axis=0)


def eigengap(values: Floats) -> int:
    """How many groups: at least 2, up to where ``1 - value`` falls by the largest factor; the values ascend from 0.

    >>> eigengap(np.array([0.0, 0.1, 0.2, 0.95, 0.96]))
    3
    """
    walk = np.maximum(1.0 - values, 1e-9)
    return int((walk[1:-1] / walk[2:]).argmax()) + 2


def nmf(matrix: Floats, rank: int, rounds: int = 200) -> tuple[Floats, Floats]:
    """Non-negative W [n, rank] and H [rank, m] with W H near the matrix, by multiplicative updates of the squared error.

    It starts from the non-negative parts of the leading singular vectors, so that the result is the same every time.
    """
    width = matrix.shape[1]
    # The leading right singular vectors alone: a whole decomposition of some thousand rows takes minutes.
    _, v = linalg.eigh(matrix.T @ matrix, subset_by_index=(width - rank, width - 1))
    w, h = np.empty((matrix.shape[0], rank)), np.empty((rank, width))
    for k, right in enumerate(v.T[::-1]):
        left = matrix @ right
        value = float(np.linalg.norm(left))
        w[:, k], h[k] = _non_negative(left / max(value, 1e-12), value, right)
    fill = matrix.mean()
    w, h = np.where(w > 0, w, fill), np.where(h > 0, h, fill)
    for _ in range(rounds):
        h *= (w.T @ matrix) / np.maximum(w.T @ w @ h, 1e-12)
        w *= (matrix @ h.T) / np.maximum(w @ (h @ h.T), 1e-12)
    return w, h


def _non_negative(left: Floats, value: float, right: Floats) -> tuple[Floats, Floats]:
    """The larger of the positive and the negative part of one singular pair."""
    parts = [(np.maximum(sign * left, 0), np.maximum(sign * right, 0)) for sign in (1, -1)]
    a, b = max(parts, key=lambda pair: float(np.linalg.norm(pair[0]) * np.linalg.norm(pair[1])))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    scale = np.sqrt(value * norms)
    return scale * a / max(float(np.linalg.norm(a)), 1e-12), scale * b / max(float(np.linalg.norm(b)), 1e-12)


def _nearest(points: Floats, sample: Floats, block: int = 2048) -> NDArray[np.int64]:
    return np.concatenate([cdist(points[i : i + block], sample).argmin(1) for i in range(0, len(points), block)])


def _by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels renumbered from 0, the largest group first."""
    names, counts = np.unique(labels, return_counts=True)
    order = {int(name): rank for rank, name in enumerate(names[np.argsort(-counts, kind="stable")])}
    return np.array([order[int(label)] for label in labels], np.int64)
