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
