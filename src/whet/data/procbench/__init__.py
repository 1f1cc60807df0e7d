"""Twenty-three procedures whose whole rule stands in the prompt and whose every state can be checked."""

from whet.data.procbench import lists, strings
from whet.data.procbench.base import Task

ORDER = (
    "sort", "gather", "count", "search", "copy", "substitute", "encode", "split1", "split2", "compose", "decompose", "rhythm",
    "compare", "count2", "decode", "push-pop", "rotate", "fill-word", "delete-char", "delete-word", "cumulate", "move-cyclic",
    "find-cyclic",
)  # fmt: skip
_BY_NAME = {task.name: task for task in (*strings.TASKS, *lists.TASKS)}
TASKS: dict[str, Task] = {name: _BY_NAME[name] for name in ORDER}
"""Task by name, in the benchmark's order."""

__all__ = ["TASKS", "Task"]
