"""The bundled world: ten skills of small verifiable text, one file each. The source ``nanoworld`` makes rows of them."""

from whet.data.nanoworld.arithmetic import Arithmetic
from whet.data.nanoworld.facts import FactQuestion
from whet.data.nanoworld.formats import Formats
from whet.data.nanoworld.multi_hop import MultiHop
from whet.data.nanoworld.ordering import Ordering
from whet.data.nanoworld.problem import Problem, read_reply, split_of
from whet.data.nanoworld.procedures import Procedure
from whet.data.nanoworld.styles import Style
from whet.data.nanoworld.translation import Translation
from whet.data.nanoworld.variables import Variables
from whet.data.nanoworld.word_problems import WordProblem
from whet.data.nanoworld.world import World

SKILLS: dict[str, type[Problem]] = {
    kind.skill: kind
    for kind in (WordProblem, Arithmetic, Procedure, Variables, Ordering, FactQuestion, MultiHop, Formats, Translation, Style)
}
"""Skill -> its class of problems."""

__all__ = ["SKILLS", "Problem", "World", "read_reply", "split_of"]
