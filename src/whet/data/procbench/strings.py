"""Tasks whose state is a string."""

from __future__ import annotations

import random
from itertools import accumulate

from whet.data.procbench.base import LETTERS, Instance, State, Task, word, write


def _sort(rng: random.Random, steps: int) -> Instance:
    text = word(rng, steps + rng.randint(1, 2 + steps // 3))
    states, letters = [text], list(text)
    for i in range(len(letters)):
        j = letters.index(min(letters[i:]), i)
        if j != i and letters[i] != letters[j]:
            letters[i], letters[j] = letters[j], letters[i]
            states.append("".join(letters))
    return Instance({"string": text}, states)


def _gather(rng: random.Random, steps: int) -> Instance:
    strings = [word(rng, 8) for _ in range(3)]
    picks = []
    for _ in range(steps):
        start = rng.randint(0, 6)
        picks.append([rng.randint(0, 2), start, rng.randint(1, min(3, 8 - start))])
    states = accumulate((strings[s][i : i + n] for s, i, n in picks), initial="")
    return Instance({"strings": write(strings), "picks": _lists(picks)}, list(states))


def _copy(rng: random.Random, steps: int) -> Instance:
    strings = [word(rng, rng.randint(1, 3)) for _ in range(rng.randint(3, 5))]
    picks = [rng.randrange(len(strings)) for _ in range(steps)]
    return Instance({"strings": write(strings), "picks": write(picks)}, list(accumulate((strings[i] for i in picks), initial="")))


def _substitute(rng: random.Random, steps: int) -> Instance:
    alphabet = "".join(rng.sample(LETTERS, 8))
    table = dict(zip(alphabet[:4], rng.sample(LETTERS, 4)))
    letters = rng.choices(alphabet[:4], k=steps) + rng.choices(alphabet[4:], k=rng.randint(1, 3))
    rng.shuffle(letters)
    text = "".join(letters)
    states = [text]
    for i, letter in enumerate(text):
        if table.get(letter, letter) != letter:
            states.append(states[-1][:i] + table[letter] + states[-1][i + 1 :])
    return Instance({"string": text, "pairs": _lists([list(pair) for pair in table.items()])}, states)


def _compose(rng: random.Random, steps: int) -> Instance:
    pairs = [a + b for a in "abcd" for b in "abcd"]
    rules = {pair: rng.choice("abcd") for pair in rng.sample(pairs, 12)}
    states = [word(rng, steps + rng.randint(1, 4), "abcd")]
    while True:
        text = states[-1]
        i = next((i for i in range(len(text) - 2, -1, -1) if text[i : i + 2] in rules), None)
        if i is None:
            return Instance({"string": states[0], "rules": _rules(rules)}, states)
        states.append(text[:i] + rules[text[i : i + 2]] + text[i + 2 :])


def _decompose(rng: random.Random, steps: int) -> Instance:
    rules = {letter: rng.choice("abcdefgh"[i + 1 :]) + rng.choice("abcdefgh"[i + 1 :]) for i, letter in enumerate("abcde")}
    sizes = dict.fromkeys("fgh", 0)
    for letter in "edcba":
        sizes[letter] = 1 + sum(sizes[part] for part in rules[letter])
    text, left = "", steps
    while left:
        letter = rng.choice([letter for letter, size in sizes.items() if size <= left])
        text, left = text + letter, left - sizes[letter]
    states = [text]
    while any(letter in rules for letter in states[-1]):
        i = next(i for i, letter in enumerate(states[-1]) if letter in rules)
        states.append(states[-1][:i] + rules[states[-1][i]] + states[-1][i + 1 :])
    return Instance({"string": text, "rules": _rules(rules)}, states)


def _rhythm(rng: random.Random, steps: int) -> Instance:
    numbers = [rng.randint(1, 9) for _ in range(rng.randint(2, 4))]
    letters = word(rng, rng.randint(2, 5))
    pieces = (f"{numbers[i % len(numbers)]}{letters[i % len(letters)]}" for i in range(steps))
    return Instance({"numbers": write(numbers), "letters": letters, "steps": str(steps)}, list(accumulate(pieces, initial="")))


def _decode(rng: random.Random, steps: int) -> Instance:
    pieces = [(rng.choice(LETTERS), rng.randint(1, 4)) for _ in range(steps)]
    given = " ".join(f"{letter}x{count}" for letter, count in pieces)
    return Instance({"pieces": given}, list(accumulate((letter * count for letter, count in pieces), initial="")))


def _push_pop(rng: random.Random, steps: int) -> Instance:
    states, actions = [word(rng, rng.randint(3, 6))], []
    for _ in range(steps):
        text, letter = states[-1], rng.choice(LETTERS)
        moves = {f"push_left({letter})": letter + text, f"push_right({letter})": text + letter}
        if len(text) > 1:
            moves |= {"pop_left": text[1:], "pop_right": text[:-1]}
        actions.append(rng.choice(list(moves)))
        states.append(moves[actions[-1]])
    return Instance({"string": states[0], "actions": " ".join(actions)}, states)


def _rotate(rng: random.Random, steps: int) -> Instance:
    states, spans = ["".join(rng.sample(LETTERS, rng.randint(5, 9)))], []
    for _ in range(steps):
        m, n = sorted(rng.sample(range(len(states[0]) + 1), 2))
        n = max(n, m + 2) if m + 2 <= len(states[0]) else n
        m = min(m, n - 2)
        text = states[-1]
        spans.append([m, n])
        states.append(text[:m] + text[n - 1] + text[m : n - 1] + text[n:])
    return Instance({"string": states[0], "spans": _lists(spans)}, states)


def _delete_char(rng: random.Random, steps: int) -> Instance:
    text = word(rng, steps + rng.randint(2, 6))
    letters = rng.sample(text, steps)
    states = [text]
    for letter in letters:
        states.append(states[-1].replace(letter, "", 1))
    return Instance({"string": text, "letters": " ".join(letters)}, states)


def _move_cyclic(rng: random.Random, steps: int) -> Instance:
    size = rng.randint(5, 9)
    place = rng.randrange(size)
    states, moves = [_array(place, size)], []
    for _ in range(steps):
        direction, amount = rng.choice(("left", "right")), rng.randint(1, size - 1)
        place = (place + (amount if direction == "right" else -amount)) % size
        moves.append(f"{direction} {amount}")
        states.append(_array(place, size))
    return Instance({"array": states[0], "moves": ", ".join(moves)}, states)


def _array(place: int, size: int) -> str:
    return "-" * place + "x" + "-" * (size - place - 1)


def _find_cyclic(rng: random.Random, steps: int) -> Instance:
    text = "".join(rng.sample(LETTERS + "0123456789", rng.randint(5, 10)))
    start = rng.randrange(len(text))
    letters = [text[(start + i) % len(text)] for i in range(steps + 1)]
    states: list[State] = []
    for i, letter in enumerate(letters[:-1]):
        pair: list[str | int] = [letter, steps - i]
        states.append(pair)
    return Instance({"string": text, "letter": letters[0], "number": str(steps)}, [*states, letters[-1]])


def _lists(items: list[list[int]] | list[list[str]]) -> str:
    return " ".join(f"({', '.join(map(str, item))})" for item in items)


def _rules(rules: dict[str, str]) -> str:
    return ", ".join(f"{left}->{right}" for left, right in rules.items())


TASKS = (
    Task(
        "sort",
        "Sort the string. For each position from the left, find the smallest letter from there on (the first of equal "
        "ones) and swap it with the letter at the position; if that changes nothing it is no step.",
        _sort,
        most=40,
    ),
    Task(
        "gather",
        "Start with an empty string. For each pick (s, i, n) append n letters of string number s, from position i. "
        "Numbers and positions begin at 0.",
        _gather,
    ),
    Task(
        "copy",
        "Start with an empty string. For each pick append the string with that number. Numbers begin at 0.",
        _copy,
    ),
    Task(
        "substitute",
        "Go through the string from left to right. A letter that is the first of a pair becomes the second of it; letters "
        "of no pair are no step.",
        _substitute,
    ),
    Task(
        "compose",
        "A rule ab->c makes the two neighbours ab into c. Apply a rule to the rightmost pair that has one, until none has.",
        _compose,
        most=40,
    ),
    Task(
        "decompose",
        "A rule a->bc makes the letter a into bc. Apply a rule to the leftmost letter that has one, until none has.",
        _decompose,
    ),
    Task(
        "rhythm",
        "Start with an empty string. At each step append the next number and the next letter; after the last of either "
        "begin again with its first.",
        _rhythm,
    ),
    Task(
        "decode",
        "Start with an empty string. For each piece axn append the letter a n times.",
        _decode,
    ),
    Task(
        "push-pop",
        "Do the actions on the string: push_left(a) and push_right(a) add the letter a at that end, pop_left and "
        "pop_right remove the letter at that end.",
        _push_pop,
    ),
    Task(
        "rotate",
        "For each span (m, n) shift the letters at positions m to n - 1 one to the right; the last of them goes to "
        "position m. Positions begin at 0.",
        _rotate,
    ),
    Task(
        "delete-char",
        "For each letter remove its first occurrence from the string.",
        _delete_char,
    ),
    Task(
        "move-cyclic",
        "Move the x in the array by each amount in its direction; beyond one end it goes on at the other.",
        _move_cyclic,
    ),
    Task(
        "find-cyclic",
        "Begin at the letter with the number. At each step go to the next letter of the string (after the last comes the "
        "first) and take 1 from the number; the state is [letter, number]. At number 0 the state is the letter alone.",
        _find_cyclic,
    ),
)
"""The tasks on strings."""
