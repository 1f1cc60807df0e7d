"""Finds the final answer in a completion and compares answers; what rewards and generative tasks share.

**Extraction.** A completion marks its answer in one of four ways; of all marks in the text, the one that *begins last* wins:

1. a line ``answer: X`` (any case; ``final answer:`` and ``**Answer:**`` too); X is the rest of the line;
2. ``\\boxed{X}`` with balanced braces;
3. ``#### X``; X is the rest of the line;
4. a JSON object with the key ``answer``, such as ``{"answer": X}``.

A mark inside another (a box in the answer line) is the inner one's. Without a mark there is no answer: the last number
of a text is not taken for one, since that rewards luck.

**Comparison.** Both sides are normalized (:func:`normal_form`); then they must be the same text, or the same exact number
(``0.50`` = ``1/2``), or lists with the same elements in the same order.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

EXTRACTOR = "last-mark-1"
"""Name and version of the extraction rule, to be kept with every score."""

_LINE = re.compile(r"^[ \t>*_#-]*(?:final )?answer[ \t*_]*:(?P<answer>[^\n]*)$", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"####(?P<answer>[^\n]*)")
_BOX = re.compile(r"\\boxed\s*\{")
_NUMBER = re.compile(r"(?P<top>[+-]?\d{1,100}(?:\.\d{0,100})?|[+-]?\.\d{1,100})(?:\s*/\s*(?P<bottom>\d{1,100}))?")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:,\d{3})+)(?![\d,])")
_AROUND = " $*_`\"'"
_FINAL = re.compile(r"^\s*final\s*:", re.IGNORECASE)
_OBJECT = re.compile(r'\{\s*"')
_LABEL = re.compile(r"^(?:after )?(?:step|state)\s*\d*\s*:|^\d+[.)]\s+|^[-*]\s+", re.IGNORECASE)


def final_answer(text: str) -> str | None:
    """The answer that the text marks as its final one, stripped; ``None`` if nothing is marked or the mark is empty.

    >>> final_answer("3 plus 4 is 7.\\nanswer: 7"), final_answer("so \\\\boxed{7}"), final_answer("It is 7.")
    ('7', '7', None)
    """
    marks = sorted(_marks(text))
    return marks[-1][1].strip().strip("*_").strip() or None if marks else None


def same_answer(given: str | None, reference: str) -> bool:
    """Whether an extracted answer equals the reference after normalization; ``None`` equals nothing.

    >>> same_answer("$1,200.", "1200"), same_answer("0.5", "1/2"), same_answer("[3, 1]", "3,1"), same_answer("Tom", "tom")
    (True, True, True, True)
    """
    if given is None:
        return False
    one, two = (normal_form(final_answer(answer) or answer) for answer in (given, reference))
    if one == two or (one[:1] == two[:1] == "{" and _json(one) == _json(two) is not None):
        return True
    ones, twos = _elements(one), _elements(two)
    return len(ones) == len(twos) and all(a == b or _equal_numbers(a, b) for a, b in zip(ones, twos))


def normal_form(answer: str) -> str:
    """The text in which answers are compared: compatibility forms (NFKC), case and runs of blanks are ignored; quotes, ``$``,
    ``*`` and ``_`` around it, full stops at its end, and commas between thousands are removed."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    text = text.lstrip(_AROUND).rstrip(_AROUND + ".") or text
    return _THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), text)


def answer_part(text: str) -> str:
    """What the completion gives as its reply, marks unresolved: the rest of the last answer line, else the whole text."""
    lines = list(_LINE.finditer(text))
    return (lines[-1]["answer"] if lines else text).strip()


def states_of(text: str) -> list[str]:
    """The states that a completion writes down before its final answer, and the answer (once, if it is the last state too).

    A state is what stands after the last `` = `` of a line; if no line has one, each line that is not empty is a state,
    without a leading ``step 3:``, ``3.`` or bullet.

    >>> states_of("3 + 4 = 7\\n7 + 1 = 8\\nanswer: 8"), states_of("step 1: abc\\nstep 2: bc\\nfinal: c")
    (['7', '8'], ['abc', 'bc', 'c'])
    """
    lines = [_FINAL.sub("answer:", line).strip() for line in text.splitlines() if line.strip()]
    answers = [i for i, line in enumerate(lines) if final_answer(line) is not None]
    worked, answer = (lines[: answers[-1]], _stated(lines[answers[-1]])) if answers else (lines, None)
    states = [line.rpartition(" = ")[2].strip() for line in worked if " = " in line]
    states = states or [_LABEL.sub("", line).strip() for line in worked]
    return states if answer is None or (states and states[-1] == answer) else [*states, answer]


def prefix_accuracy(given: Sequence[str], reference: Sequence[str]) -> float:
    """Leading states that are equal, divided by the longer of the two lengths: in [0, 1]; 0 if nothing is given.

    >>> prefix_accuracy(["1", "3", "7"], ["1", "3", "6"])
    0.6666666666666666
    """
    matches = (same_answer(a, b) for a, b in zip(given, reference))
    equal = next((i for i, match in enumerate(matches) if not match), min(len(given), len(reference)))
    return equal / max(len(given), len(reference), 1)


def _stated(line: str) -> str | None:
    return answer_part(line) if _LINE.match(line) else final_answer(line)


def _marks(text: str) -> Iterator[tuple[int, str]]:
    for pattern in (_LINE, _HASHES):
        for match in pattern.finditer(text):
            yield match.start("answer"), match["answer"]
    for match in _BOX.finditer(text):
        end = _balanced(text, match.end())
        if end is not None:
            yield match.end(), text[match.end() : end]
    for match in _OBJECT.finditer(text):
        answer = _json_answer(text, match.start())
        if answer is not None:
            yield match.start(), answer


def _balanced(text: str, start: int) -> int | None:
    """Position of the brace that closes the one before ``start``."""
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
    return None


def _json_answer(text: str, start: int) -> str | None:
    value = _json(text, start)
    if not isinstance(value, dict) or "answer" not in value:
        return None
    answer = value["answer"]
    return answer if isinstance(answer, str) else json.dumps(answer)


def _json(text: str, start: int = 0) -> Any:
    """The JSON value that begins there, ``None`` if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _elements(answer: str) -> list[str]:
    """A list's elements (brackets optional), or the answer alone."""
    if len(answer) > 1 and answer[0] + answer[-1] in ("[]", "()"):
        answer = answer[1:-1]
    return [element.strip().strip("\"'") for element in answer.split(",")]


def _equal_numbers(one: str, two: str) -> bool:
    first, second = _number(one), _number(two)
    return first is not None and first == second


def _number(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    bottom = int(match["bottom"] or 1)
    return Fraction(match["top"].rstrip(".")) / bottom if bottom else None
