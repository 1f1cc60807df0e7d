"""Carries a procedure out again from its prompt alone: what the generators are tested against.

``simulate(task, prompt)`` parses the inputs out of the prompt and gives the written states after each step, by other means than
the generator's (character arrays, queues and regular expressions in place of slices and running sums).
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice, takewhile
from typing import Any

Given = Mapping[str, str]


def simulate(task: str, prompt: str) -> list[str]:
    """The states of a prompt of that task, as the reply should write them."""
    given = dict(line.split(": ", 1) for line in prompt.split("\n")[1:-1])
    return [json.dumps(state) if isinstance(state, list) else str(state) for state in SIMULATORS[task](given)]


def _tuples(text: str) -> list[list[str]]:
    return [inside.split(", ") for inside in re.findall(r"\(([^)]*)\)", text)]


def _sort(given: Given) -> Iterator[str]:
    letters = list(given["string"])
    place = 0
    for letter in "abcdefghijklmnopqrstuvwxyz":
        while letter in letters[place:]:
            at = place + letters[place:].index(letter)
            if at != place:
                letters[place], letters[at] = letters[at], letters[place]
                yield "".join(letters)
            place += 1


def _gather(given: Given) -> Iterator[str]:
    strings, out = json.loads(given["strings"]), ""
    for which, start, count in _tuples(given["picks"]):
        for offset in range(int(count)):
            out += strings[int(which)][int(start) + offset]
        yield out


def _count(given: Given) -> Iterator[int]:
    total = 0
    for text in json.loads(given["strings"]):
        total += len(re.findall("[a-z]", text)) * int(re.sub("[a-z]", "", text) or 0)
        yield total


def _search(given: Given) -> Iterator[list[int]]:
    strings = json.loads(given["strings"])
    counts = Counter[int]()
    for pattern in given["patterns"].split():
        for i, text in enumerate(strings):
            counts[i] += len(re.findall(f"(?={pattern})", text))
        yield [counts[i] for i in range(len(strings))]


def _copy(given: Given) -> Iterator[str]:
    strings, out = json.loads(given["strings"]), []
    for i in json.loads(given["picks"]):
        out.append(strings[i])
        yield "".join(out)


def _substitute(given: Given) -> Iterator[str]:
    table = dict(_tuples(given["pairs"]))
    done, rest = "", deque(given["string"])
    while rest:
        letter = rest.popleft()
        done += table.get(letter, letter)
        if table.get(letter, letter) != letter:
            yield done + "".join(rest)


def _encode(given: Given) -> Iterator[list[str]]:
    out: list[str] = []
    for run in re.finditer("0+|1+", given["string"]):
        out.append(f"{run[0][0]}_{len(run[0])}")
        yield list(out)


def _split1(given: Given) -> Iterator[list[str]]:
    text, cuts = given["string"], set()
    for position in json.loads(given["positions"]):
        cuts.add(position)
        yield "".join(("|" if i in cuts else "") + letter for i, letter in enumerate(text)).split("|")


def _split2(given: Given) -> Iterator[list[str]]:
    pieces = [given["string"]]
    for i, j in _tuples(given["cuts"]):
        piece = pieces.pop(int(i))
        pieces.insert(int(i), piece[int(j) :])
        pieces.insert(int(i), piece[: int(j)])
        yield list(pieces)


def _compose(given: Given) -> Iterator[str]:
    rules = dict(rule.split("->") for rule in given["rules"].split(", "))
    text = given["string"]
    while True:
        at = max(text.rfind(pair) for pair in rules)
        if at < 0:
            return
        text = text[:at] + rules[text[at : at + 2]] + text[at + 2 :]
        yield text


def _decompose(given: Given) -> Iterator[str]:
    rules = dict(rule.split("->") for rule in given["rules"].split(", "))
    text, count = given["string"], 1
    while count:
        text, count = re.subn(f"[{''.join(rules)}]", lambda match: rules[match[0]], text, count=1)
        if count:
            yield text


def _rhythm(given: Given) -> Iterator[str]:
    out = ""
    for number, letter in islice(zip(cycle(json.loads(given["numbers"])), cycle(given["letters"])), int(given["steps"])):
        out += str(number) + letter
        yield out


def _compare(given: Given) -> Iterator[list[str]]:
    out: list[str] = []
    for text in json.loads(given["strings"]):
        out.append("".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, given["target"]))))
        yield list(out)


def _count2(given: Given) -> Iterator[list[int]]:
    counts = Counter[str]()
    for item in given["sentence"].split():
        counts.update(item)
        yield [counts[letter] for letter in given["letters"].split()]


def _decode(given: Given) -> Iterator[str]:
    out = ""
    for piece in given["pieces"].split():
        for _ in range(int(piece[2:])):
            out += piece[0]
        yield out


def _push_pop(given: Given) -> Iterator[str]:
    text = deque(given["string"])
    for action in given["actions"].split():
        left = "left" in action
        if action.startswith("push"):
            (text.appendleft if left else text.append)(action[-2])
        else:
            (text.popleft if left else text.pop)()
        yield "".join(text)


def _rotate(given: Given) -> Iterator[str]:
    letters = list(given["string"])
    for m, n in _tuples(given["spans"]):
        letters.insert(int(m), letters.pop(int(n) - 1))
        yield "".join(letters)


def _fill_word(given: Given) -> Iterator[str]:
    words = given["sentence"].split()
    for number, word in _tuples(given["words"]):
        words[words.index(f"[{number}]")] = word
        yield " ".join(words)


def _delete_char(given: Given) -> Iterator[str]:
    letters = list(given["string"])
    for letter in given["letters"].split():
        letters.remove(letter)
        yield "".join(letters)


def _delete_word(given: Given) -> Iterator[str]:
    words = given["sentence"].split()
    for word in given["words"].split():
        words.remove(word)
        yield " ".join(words)


def _cumulate(given: Given) -> Iterator[int]:
    value = int(given["number"])
    for operation in given["operations"].split(", "):
        name, number = operation.split()
        value = value + int(number) if name == "add" else value * int(number)
        yield value


def _move_cyclic(given: Given) -> Iterator[str]:
    array = deque(given["array"])
    for move in given["moves"].split(", "):
        direction, amount = move.split()
        array.rotate(int(amount) if direction == "right" else -int(amount))
        yield "".join(array)


def _find_cyclic(given: Given) -> Iterator[Any]:
    ring = deque(given["string"])
    ring.rotate(-ring.index(given["letter"]))
    for number in range(int(given["number"]) - 1, -1, -1):
        ring.rotate(-1)
        yield [ring[0], number] if number else ring[0]


SIMULATORS: dict[str, Callable[[Given], Iterator[Any]]] = {
    "sort": _sort, "gather": _gather, "count": _count, "search": _search, "copy": _copy, "substitute": _substitute,
    "encode": _encode, "split1": _split1, "split2": _split2, "compose": _compose, "decompose": _decompose, "rhythm": _rhythm,
    "compare": _compare, "count2": _count2, "decode": _decode, "push-pop": _push_pop, "rotate": _rotate, "fill-word": _fill_word,
    "delete-char": _delete_char, "delete-word": _delete_word, "cumulate": _cumulate, "move-cyclic": _move_cyclic,
    "find-cyclic": _find_cyclic,
}  # fmt: skip
"""Task -> inputs to the states after each step."""
