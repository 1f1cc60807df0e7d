"""Multi-digit addition, subtraction and multiplication, worked out column by column from the right."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from whet.data.nanoworld.problem import Hand, Problem, Work
from whet.data.nanoworld.world import World

QUESTIONS = ("What is {e}?", "Work out {e}.", "Calculate {e}.", "{e} = ?")
KINDS = {2: ("++", "--", "x1"), 3: ("+++", "---", "x2"), 4: ("++++", "----", "x3"), 5: ("+++++", "-----", "x22")}
"""Level -> kinds: as many signs as digits; ``x2`` is two digits times one, ``x22`` two digits times two."""


@dataclass(frozen=True)
class Arithmetic(Problem):
    """``terms`` joined by ``signs`` (+ - x), read from left to right; several signs only with one-digit terms."""

    skill: ClassVar[str] = "arithmetic"
    topic: ClassVar[str] = "Arithmetic"
    terms: tuple[int, ...]
    signs: tuple[str, ...]

    @classmethod
    def draw(cls, rng: random.Random, level: int, world: World) -> Arithmetic:
        if level == 1:
            return _small(rng)
        kind = rng.choice(KINDS[level])
        if kind[0] == "x":
            one, two = int(kind[1]), int(kind[2:] or 1)
            low = 2 if one == 1 else 10 ** (one - 1)
            return cls((rng.randint(low, 10**one - 1), rng.randint(2 if two == 1 else 11, 10**two - 1)), ("x",))
        low, high = 10 ** (len(kind) - 1), 10 ** len(kind) - 1
        a, b = rng.randint(low, high), rng.randint(low, high)
        return cls((a, b) if kind[0] == "+" else (max(a, b), min(a, b)), (kind[0],))

    def key(self) -> str:
        terms = sorted(self.terms) if set(self.signs) in ({"+"}, {"x"}) else list(self.terms)
        return f"arithmetic {terms} {self.signs}"

    def expression(self) -> str:
        return str(self.terms[0]) + "".join(f" {s} {t}" for s, t in zip(self.signs, self.terms[1:]))

    def ask(self, rng: random.Random) -> str:
        return rng.choice(QUESTIONS).format(e=self.expression())

    def work(self, hand: Hand) -> Work:
        lines: list[str] = []
        value = self.terms[0]
        for sign, term in zip(self.signs, self.terms[1:]):
            value = _operate(value, sign, term, hand, lines)
        return Work(tuple(lines), str(value))


def _small(rng: random.Random) -> Arithmetic:
    a, b, c = rng.randint(0, 9), rng.randint(0, 9), rng.randint(0, 9)
    sign = rng.choice("+-x")
    if sign == "-":
        a, b = max(a, b), min(a, b)
    if sign == "x" or rng.random() < 0.5:
        return Arithmetic((a, b), (sign,))
    value = a + b if sign == "+" else a - b
    second = rng.choice("+-") if value >= c else "+"
    return Arithmetic((a, b, c), (sign, second))


def _operate(a: int, sign: str, b: int, hand: Hand, lines: list[str]) -> int:
    """a sign b, its worked lines appended to ``lines``."""
    if (a < 10 and b < 10) or (a < 20 and b < 10 and sign in "+-"):
        result = hand({"+": a + b, "-": a - b, "x": a * b}[sign])
        lines.append(f"{a} {sign} {b} = {result}")
        return result
    if sign == "+":
        return _add(a, b, hand, lines)
    if sign == "-":
        return _subtract(a, b, hand, lines)
    return _multiply(a, b, hand, lines)


def _add(a: int, b: int, hand: Hand, lines: list[str]) -> int:
    digits, carry = [], 0
    width = max(len(str(a)), len(str(b)))
    for place in range(width):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = hand(x + y + carry)
        lines.append(f"{x} + {y} + {carry} = {total}")
        digits.append(total if place == width - 1 else total % 10)
        carry = total // 10
    return _join(digits, lines)


def _subtract(a: int, b: int, hand: Hand, lines: list[str]) -> int:
    digits, borrow = [], 0
    for place in range(len(str(a))):
        x, y = a // 10**place % 10, b // 10**place % 10
        lent = 10 if x - y - borrow < 0 else 0
        rest = hand(x + lent - y - borrow)
        lines.append(f"{x + lent} - {y} - {borrow} = {rest}")
        digits.append(rest % 10)
        borrow = lent // 10
    return _join(digits, lines)


def _multiply(a: int, b: int, hand: Hand, lines: list[str]) -> int:
    if b >= 10:
        tens, ones = b // 10 * 10, b % 10
        high = _multiply(a, tens // 10, hand, lines) * 10
        lines.append(f"{a} x {tens} = {high}")
        if not ones:
            return high
        return _add(high, _multiply(a, ones, hand, lines), hand, lines)
    digits, carry = [], 0
    for place in range(len(str(a))):
        x = a // 10**place % 10
        total = hand(x * b + carry)
        lines.append(f"{x} x {b} + {carry} = {total}")
        digits.append(total if place == len(str(a)) - 1 else total % 10)
        carry = total // 10
    return _join(digits, lines)


def _join(digits: list[int], lines: list[str]) -> int:
    """The number whose parts, last first, are ``digits``."""
    parts = [str(d) for d in reversed(digits)]
    value = int("".join(parts))
    lines.append(f"join {' '.join(parts)} = {value}")
    return value
