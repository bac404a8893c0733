"""What an evaluation task is: its settings, what it needs, how it measures, and how a person reads its numbers.

Enters: a checkpoint and the tokens that hold documents out (`Subject`). Leaves: `Measured`, plain data. `results.json`
keeps it beside its description, so the report, the model card, MLflow and the terminal read that file and know no task
by name.

To add a task: a file here that ends with a `Task`, and a row in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipelines.config import config_class, plain
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.network.architecture import ModelConfig

if TYPE_CHECKING:
    from pipelines.train.network.model import Transformer

TOKENIZER = "tokenizer/tokenizer.json"  # in an artifact of kind tokens


@config_class
class TaskSettings:
    """What the settings of every task extend: `tasks.<name>` of an evaluation's config."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured, and on what: the same for every task of an evaluation."""

    run: Run
    architecture: ModelConfig
    tokens: Artifact  # whose held-out documents are read
    sequence_length: int  # T, in tokens
    seed: int  # of every draw, so that all checkpoints are measured on the same documents
    store: ArtifactStore  # for a task that reads another artifact


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """What a task will do, known before anything is loaded."""

    announcement: str  # in one line
    sources: tuple[str, ...] = ()  # those that it gives numbers of, and those of which nothing counts
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # source -> why nothing of it counts
    samples: int = 0  # texts that it leaves for people to read
    inputs: tuple[Artifact, ...] = ()  # that it reads beside the run and its tokens
    identity: Mapping[str, Any] = field(default_factory=dict)  # what else decides its numbers, e.g. a file's checksum


@dataclass(frozen=True, kw_only=True)
class Column:
    """One value of a row. `metric`: MLflow shows it as `<metric>/<row>`; "" keeps it out of MLflow."""

    heading: str
    metric: str = ""
    share: bool = False  # 0.25 is shown as 25.0%


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of the summary; its name is that of the MLflow metric."""

    label: str  # in a sentence or a line of its own: mean of document sources
    unit: str  # behind its value: nats per token
    better: Literal["lower", "higher"]
    heading: str = ""  # of its column in the report's table of stages; "": it has none
    share: bool = False  # 0.25 is shown as 25.0%
    column: str = ""  # the column of the rows that it sums up, below which it is shown; "": it has a line of its own


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The task's figure in the report: a value for each row and checkpoint."""

    name: str  # of the figure's file
    kind: Literal["bars", "lines"]  # bars side by side for each row, or a line for each row over the checkpoints
    column: str  # which value of a row
    title: str
    axis: str
    caption: str
    only: Mapping[str, Any] = field(default_factory=dict)  # rows that hold these values; empty: all rows
    tabled: bool = False  # whether the rows are columns of the table of stages, too
    total: str = ""  # the number that is drawn as a bold line over the others ("lines"), named by its label
    chance: float | None = None  # what guessing reaches


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Something the model wrote, for people to read."""

    prompt: str
    note: str  # what the prompt is: a question in the chat format
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a task found.

    Attributes: rows, a row's name (source, file, question set) -> value of each column, and whatever else is worth
        keeping; summary, a value for each of the task's numbers, None where it cannot be told; unmeasured, source ->
        reason.
    """

    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: Mapping[str, float | None] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of `TASKS`.

    Attributes:
        Settings: the config class of `tasks.<name>`.
        title: the heading over its tables and samples. reading: a sentence that says how its numbers are read.
        row: what the names of its rows are. columns, numbers: in the order in which they are shown.
        plan_task: refuses, before any work, what cannot be measured here; says what will be done.
        measure: measures. The model is in evaluation mode, in float32, on the device of this process.
    """

    Settings: type[TaskSettings]
    title: str
    reading: str
    plan_task: Callable[[Subject, Any], TaskPlan]
    measure: Callable[[Transformer, Subject, Any], Measured]
    row: str = "source"
    columns: Mapping[str, Column] = field(default_factory=dict)
    numbers: Mapping[str, Number] = field(default_factory=dict)
    chart: Chart | None = None

    def described(self, measured: Measured) -> dict[str, Any]:
        """The entry in `results.json`: what was measured, and how it is read.

        Raises: ValueError when the summary does not hold just the numbers that the task declares.
        """
        if measured.summary.keys() != self.numbers.keys():
            raise ValueError(
                f"{self.title}: the summary has {list(measured.summary)}, declared are {list(self.numbers)}"
            )
        return {
            "title": self.title,
            "reading": self.reading,
            "row": self.row,
            "columns": plain(self.columns),
            "numbers": {
                name: {"value": measured.summary[name], **plain(about)} for name, about in self.numbers.items()
            },
            "chart": plain(self.chart),
            "rows": plain(measured.rows),
            "samples": plain(measured.samples),
            "unmeasured": plain(measured.unmeasured),
        }
