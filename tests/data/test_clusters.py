"""Grouping rows: known groups are found again, the number of them too, and the factorization is as good as scikit-learn's."""

import numpy as np
import pytest

from whet.data.clusters import diffusion_map, eigengap, nmf, spectral_clusters
from whet.errors import DataError


def blobs(counts, width=12, spread=0.25, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (len(counts), width))
    points = np.concatenate([c + spread * rng.normal(0, 1, (n, width)) for c, n in zip(centres, counts)])
    return points, np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("counts", [(60, 40), (50, 40, 30), (60, 50, 40, 30, 20)])
def test_known_groups_and_their_number_are_found(counts):
    points, truth = blobs(counts)
    order = np.random.default_rng(1).permutation(len(points))
    found = spectral_clusters(points[order])
    assert found.count == len(counts)
    adjusted_rand_score = pytest.importorskip("sklearn.metrics").adjusted_rand_score
    assert adjusted_rand_score(truth[order], found.labels) > 0.98
    assert np.bincount(found.labels).tolist() == sorted(counts, reverse=True)


def test_the_same_rows_in_another_order_are_the_same_groups():
    points, _ = blobs((30, 25, 20))
    turn = np.random.default_rng(2).permutation(len(points))
    assert np.array_equal(spectral_clusters(points[turn]).labels, spectral_clusters(points).labels[turn])


def test_rows_beyond_the_sample_join_their_nearest(monkeypatch):
    points, truth = blobs((200, 150, 100))
    monkeypatch.setattr("whet.data.clusters.MOST_ROWS", 90)
    found = spectral_clusters(points)
    assert found.count == 3 and len(set(zip(truth.tolist(), found.labels.tolist()))) == 3


def test_eigenvalues_are_those_of_the_random_walk():
    points, _ = blobs((20, 15))
    values, vectors = diffusion_map(points, 4)
    from scipy.spatial.distance import cdist

    d = cdist(points, points)
    a = np.exp(-(d**2) / (2 * np.median(d[np.triu_indices(len(d), 1)]) ** 2))
    walk = np.eye(len(a)) - a / a.sum(1, keepdims=True)
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert np.allclose(walk @ vectors, vectors * values, atol=1e-8)


def test_the_factorization_is_as_good_as_another_librarys():
    decomposition = pytest.importorskip("sklearn.decomposition")
    matrix = np.random.default_rng(0).random((40, 4)) @ np.random.default_rng(1).random((4, 30))
    w, h = nmf(matrix, 4)
    peer = decomposition.NMF(4, init="nndsvda", max_iter=200, solver="mu", tol=0)
    error = np.linalg.norm(matrix - peer.fit_transform(matrix) @ peer.components_)
    assert (w >= 0).all() and (h >= 0).all() and np.linalg.norm(matrix - w @ h) <= 1.5 * error + 1e-6


def test_too_few_rows_and_bad_numbers():
    assert eigengap(np.array([0.0, 0.5, 0.99])) == 2
    with pytest.raises(DataError, match="3 rows cannot be put into 3 groups"):
        spectral_clusters(np.eye(3), clusters=3)
    with pytest.raises(DataError, match="row 1 holds NaN"):
        spectral_clusters(np.array([[0.0], [np.nan], [1.0], [2.0]]))
