"""Tasks whose state is a number, a list or a sentence."""

from __future__ import annotations

import random
from itertools import accumulate, groupby, pairwise

from whet.data.procbench.base import LETTERS, Instance, State, Task, word, write

_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def _words(rng: random.Random, count: int) -> list[str]:
    """Different pronounceable words of two or three syllables."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3)))] = None
    return list(words)


def _count(rng: random.Random, steps: int) -> Instance:
    strings, totals = [], [0]
    for _ in range(steps):
        letters, digits = word(rng, rng.randint(1, 4)), str(rng.randint(1, 99))
        strings.append(_interleave(rng, letters, digits))
        totals.append(totals[-1] + len(letters) * int(digits))
    return Instance({"strings": write(strings)}, totals)


def _interleave(rng: random.Random, first: str, second: str) -> str:
    """Both texts in one, each in its own order."""
    order = [0] * len(first) + [1] * len(second)
    rng.shuffle(order)
    parts = (iter(first), iter(second))
    return "".join(next(parts[which]) for which in order)


def _search(rng: random.Random, steps: int) -> Instance:
    strings = [word(rng, 6, "abc") for _ in range(3)]
    patterns = []
    for _ in range(steps):
        string, start = rng.choice(strings), rng.randint(0, 4)
        patterns.append(string[start : start + rng.randint(1, 2)])
    counts = [[_occurrences(string, pattern) for string in strings] for pattern in patterns]
    states: list[State] = [[0, 0, 0]]
    for found in counts:
        states.append([a + b for a, b in zip(states[-1], found)])  # type: ignore[arg-type, operator]
    return Instance({"strings": write(strings), "patterns": " ".join(patterns)}, states)


def _occurrences(text: str, pattern: str) -> int:
    """Occurrences, overlapping ones too."""
    return sum(text.startswith(pattern, i) for i in range(len(text)))


def _encode(rng: random.Random, steps: int) -> Instance:
    first = rng.randint(0, 1)
    text = "".join(str((first + i) % 2) * rng.randint(1, max(4, 40 // steps)) for i in range(steps))
    runs = [f"{digit}_{len(list(run))}" for digit, run in groupby(text)]
    return Instance({"string": text}, [runs[:i] for i in range(len(runs) + 1)])


def _split1(rng: random.Random, steps: int) -> Instance:
    text = word(rng, steps + rng.randint(2, 5))
    cuts = rng.sample(range(1, len(text)), steps)
    states: list[State] = []
    for i in range(steps + 1):
        edges = [0, *sorted(cuts[:i]), len(text)]
        states.append([text[a:b] for a, b in pairwise(edges)])
    return Instance({"string": text, "positions": write(cuts)}, states)


def _split2(rng: random.Random, steps: int) -> Instance:
    pieces, cuts = [word(rng, steps + rng.randint(2, 5))], []
    states: list[State] = [list(pieces)]
    for _ in range(steps):
        i = rng.choice([i for i, piece in enumerate(pieces) if len(piece) > 1])
        j = rng.randint(1, len(pieces[i]) - 1)
        pieces[i : i + 1] = [pieces[i][:j], pieces[i][j:]]
        cuts.append(f"({i}, {j})")
        states.append(list(pieces))
    return Instance({"string": "".join(pieces), "cuts": " ".join(cuts)}, states)


def _compare(rng: random.Random, steps: int) -> Instance:
    target = word(rng, rng.randint(5, 8))
    candidates = []
    for _ in range(steps):
        same = rng.randint(1, len(target))
        tail = "" if same == len(target) else rng.choice(LETTERS.replace(target[same], "")) + word(rng, len(target) - same - 1)
        candidates.append((target[:same], target[:same] + tail))
    states: list[State] = [[common for common, _ in candidates[:i]] for i in range(steps + 1)]
    return Instance({"target": target, "strings": write([string for _, string in candidates])}, states)


def _count2(rng: random.Random, steps: int) -> Instance:
    words, letters = _words(rng, steps), rng.sample("aeioubdk", 4)
    states: list[State] = [[0] * 4]
    for item in words:
        states.append([have + item.count(letter) for have, letter in zip(states[-1], letters)])  # type: ignore[arg-type, operator]
    return Instance({"sentence": " ".join(words), "letters": " ".join(letters)}, states)


def _fill_word(rng: random.Random, steps: int) -> Instance:
    words = _words(rng, steps + rng.randint(2, 5))
    holes = sorted(rng.sample(range(len(words)), steps))
    labels = {place: f"[{number}]" for number, place in enumerate(holes, 1)}
    sentence = " ".join(labels.get(i, item) for i, item in enumerate(words))
    order = rng.sample(holes, steps)
    states = accumulate(order, lambda text, place: text.replace(labels[place], words[place]), initial=sentence)
    return Instance({"sentence": sentence, "words": " ".join(f"({labels[i][1:-1]}, {words[i]})" for i in order)}, list(states))


def _delete_word(rng: random.Random, steps: int) -> Instance:
    words = _words(rng, steps + rng.randint(2, 5))
    gone = rng.sample(words, steps)
    states = [" ".join(item for item in words if item not in gone[:i]) for i in range(steps + 1)]
    return Instance({"sentence": states[0], "words": " ".join(gone)}, states)


def _cumulate(rng: random.Random, steps: int) -> Instance:
    values, operations = [rng.randint(1, 20)], []
    for _ in range(steps):
        multiply = values[-1] < 1000 and rng.random() < 0.3
        number = rng.randint(2, 4) if multiply else rng.randint(1, 20)
        operations.append(f"{'multiply' if multiply else 'add'} {number}")
        values.append(values[-1] * number if multiply else values[-1] + number)
    return Instance({"number": str(values[0]), "operations": ", ".join(operations)}, values)


TASKS = (
    Task(
        "count",
        "Start with the total 0. For each string add to the total: its number of letters times the number that its digits "
        "make when read from left to right.",
        _count,
    ),
    Task(
        "search",
        "Start with a count of 0 for each string. For each pattern add to each string's count how often the pattern "
        "occurs in it; occurrences may overlap.",
        _search,
    ),
    Task(
        "encode",
        "Start with an empty list. For each run of equal digits, from the left, append digit_length to the list.",
        _encode,
    ),
    Task(
        "split1",
        "Start with a list that holds the string. For each position cut the string there, before the letter at that "
        "position of the original string. Positions begin at 0.",
        _split1,
    ),
    Task(
        "split2",
        "Start with a list that holds the string. For each cut (i, j) cut piece i of the list in two, before its letter "
        "j. Both begin at 0.",
        _split2,
    ),
    Task(
        "compare",
        "Start with an empty list. For each string append to the list the letters that it has in common with the target "
        "from the left, up to the first difference.",
        _compare,
    ),
    Task(
        "count2",
        "Start with a count of 0 for each of the letters. For each word of the sentence add to each count how often the "
        "word has that letter.",
        _count2,
    ),
    Task(
        "fill-word",
        "For each pair (n, word) put the word in the place of [n] in the sentence.",
        _fill_word,
    ),
    Task(
        "delete-word",
        "For each word remove it from the sentence.",
        _delete_word,
    ),
    Task(
        "cumulate",
        "Do the operations on the number, one after another.",
        _cumulate,
    ),
)
"""The tasks on numbers, lists and sentences."""
