"""The table of evaluation tasks: `tasks.<name>` of an evaluation's config chooses from it.

A row says how its task plans, measures and is read (`task.py`). Two tasks may not have numbers or figures of one name:
MLflow and the report would take one for the other.
"""

from pipelines.train.tasks.completions import COMPLETIONS
from pipelines.train.tasks.preferences import PREFERENCES
from pipelines.train.tasks.task import Task
from pipelines.train.tasks.text import TEXT

TASKS: dict[str, Task] = {
    "text": TEXT,
    "preferences": PREFERENCES,
    "completions": COMPLETIONS,
}

for _kind, _names in (
    ("number", [name for task in TASKS.values() for name in task.numbers]),
    ("figure", [task.chart.name for task in TASKS.values() if task.chart is not None]),
):
    if _twice := sorted({name for name in _names if _names.count(name) > 1}):
        raise TypeError(
            f"two evaluation tasks have one name for their {_kind}: {', '.join(_twice)}: give one another name"
        )
