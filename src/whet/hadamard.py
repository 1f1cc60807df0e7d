"""Orthogonal matrices with flat entries, and how to multiply by them fast.

A rotation of size n is ``R = D (S ⊗ B)``: random signs ``D`` (optional), a Sylvester matrix ``S`` of size ``2^k``, and a base
``B`` of size m, ``n = 2^k m``. ``B`` is the smallest Hadamard matrix that Paley's constructions give: order ``q + 1`` for a
prime ``q = 3 mod 4``, order ``2 (q + 1)`` for a prime ``q = 1 mod 4``. So 192 is ``16 x 12``, 160 is ``8 x 20``, and 896 is
``32 x 28``. Where there is none up to order :data:`LARGEST_BASE`, ``B`` is a fixed random orthogonal matrix of n's odd
factor: still exactly orthogonal, but no longer with entries of one size. ``x R`` costs ``n (k + m)`` multiplications a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

LARGEST_BASE = 1024
"""Largest Hadamard base that is looked for; a larger one would make the fast product slow."""


@dataclass(frozen=True)
class Rotation:
    """``base`` float64 [m, m], orthonormal; ``doublings`` k; ``signs`` [n] of +-1 or ``None``."""

    base: Tensor
    doublings: int
    signs: Tensor | None = None

    @property
    def size(self) -> int:
        """n, the length of the vectors that it rotates."""
        return len(self.base) << self.doublings

    def right(self, x: Tensor) -> Tensor:
        """``x R`` for x [..., n], in x's dtype."""
        n, m = self.size, len(self.base)
        if self.signs is not None:
            x = x * self.signs.to(x)
        y = x.reshape(-1, 1 << self.doublings, m)
        for step in range(self.doublings):
            pair = y.reshape(-1, (1 << self.doublings) >> (step + 1), 2, (1 << step) * m)
            y = torch.stack([pair[:, :, 0] + pair[:, :, 1], pair[:, :, 0] - pair[:, :, 1]], dim=2)
        y = y.reshape(-1, m) @ self.base.to(x)
        return (y * 2 ** (-self.doublings / 2)).reshape(*x.shape[:-1], n)

    def matrix(self) -> Tensor:
        """``R`` itself, float64 [n, n]."""
        return self.right(torch.eye(self.size, dtype=torch.float64))


def rotation(n: int, seed: int | None = None) -> Rotation:
    """A rotation of size n; with a seed, random signs make it one of many."""
    base = _base(n)
    signs = None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    return Rotation(base, (n // len(base)).bit_length() - 1, signs)


def is_hadamard(n: int) -> bool:
    """Whether all entries of the rotation of size n have the same size."""
    return bool(torch.allclose(_base(n).abs(), torch.full_like(_base(n), len(_base(n)) ** -0.5)))


@cache
def _base(n: int) -> Tensor:
    odd = n // (n & -n)
    if odd == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    m = odd
    while n % m == 0 and m <= LARGEST_BASE:
        for build in (_paley_one, _paley_two):
            matrix = build(m)
            if matrix is not None:
                return matrix / m**0.5
        m *= 2
    return _random_orthogonal(odd)


def _random_orthogonal(m: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64, generator=torch.Generator().manual_seed(m)))
    return q * r.diagonal().sign()


def _is_prime(q: int) -> bool:
    return q > 1 and all(q % d for d in range(2, int(q**0.5) + 1))


def _residues(q: int) -> Tensor:
    """The Jacobsthal matrix ``Q[i, j] = chi(i - j)`` of a prime q: +1 for squares, -1 for the others, 0 on the diagonal."""
    character = -torch.ones(q, dtype=torch.float64)
    character[torch.arange(1, q, dtype=torch.int64).square() % q] = 1
    character[0] = 0
    index = torch.arange(q)
    return character[(index[:, None] - index) % q]


def _paley_one(n: int) -> Tensor | None:
    q = n - 1
    if q % 4 != 3 or not _is_prime(q):
        return None
    bordered = torch.zeros(n, n, dtype=torch.float64)
    bordered[0, 1:], bordered[1:, 0], bordered[1:, 1:] = 1, -1, _residues(q)
    return bordered + torch.eye(n, dtype=torch.float64)


def _paley_two(n: int) -> Tensor | None:
    q = n // 2 - 1
    if n % 4 or q % 4 != 1 or not _is_prime(q):
        return None
    bordered = torch.ones(n // 2, n // 2, dtype=torch.float64)
    bordered[0, 0], bordered[1:, 1:] = 0, _residues(q)
    plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(bordered, plus) + torch.kron(torch.eye(n // 2, dtype=torch.float64), diagonal)
