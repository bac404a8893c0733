"""The table of training stages.

Three words are never mixed up: *resume* (the same run goes on), *branch* (a new run from selected parent state) and
*initialise* (weights only). A row of `STAGES` says what a stage means; planning, lineage, retention, averaging and the
commands read it there, so that another stage is one more row. The config that all stages take is in `spec.py`.

Source of the table: MiniCPM (arXiv 2404.06395 §6) and its author's answers; see docs/recipe.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import ConfigError
from pipelines.train.network.roles import check_kinds

StartMode = Literal["fresh", "branch", "initialise"]
RateOrigin = Literal["own", "parent", "trunk"]
AVERAGE = "average"  # the kind of artifact that `workflows.average` makes: weights alone, and a parent like a run


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the table. It states every entry: a row that misses one fails at import, with the entry's name."""

    # fresh: new weights. branch: weights, optimizer state, LR and place in the data of the parent. initialise: its
    # weights alone
    starts: StartMode
    # kinds that `parent=` may name; the likeliest last, and first the one to make where the store has none
    parents: tuple[str, ...]
    # kinds of artifacts that `data=` may name
    data: tuple[str, ...]
    # what it usually reads, in words; the announcement states what a run really reads
    reads: str
    # the objective of a config that names none
    objective: str
    # kinds of roles whose parameters train; None: all
    trains: tuple[str, ...] | None
    # where the LR begins. own: at a peak of its own. parent: at the parent's last. trunk: at the trunk's stable one,
    # compared with it before the first step
    learning_rate: RateOrigin
    # whether the run goes on for ever, as a trunk does: more steps are then the same run
    endless: bool
    # whether checkpoints along a run may be averaged
    averaged: bool
    # the stage that usually follows; None: the model is finished, and is exported
    followed_by: str | None
    # the number of an evaluation that says which of two of its runs is better
    ranked_by: str
    # of its curves in a report
    colour: str

    @property
    def branches(self) -> bool:
        """Whether a run goes on in its parent's line: its optimizer state, its LR and its place in the data."""
        return self.starts == "branch"

    @property
    def weights(self) -> str:
        """Where weights come from, for the announcement."""
        return {"fresh": "own resume, or fresh", "branch": "parent trunk", "initialise": "parent"}[self.starts]

    @property
    def optimizer_state(self) -> str:
        """Where the optimizer's state comes from, for the announcement."""
        return {"fresh": "own resume", "branch": "parent's", "initialise": "fresh"}[self.starts]

    @property
    def rate_begins_at(self) -> str:
        """Where the LR begins, for the announcement."""
        return {
            "own": "a peak of its own",
            "parent": "the parent's last LR",
            "trunk": "the trunk's stable LR, checked equal before step 1",
        }[self.learning_rate]


STAGES: dict[str, Stage] = {
    "pretrain": Stage(
        starts="fresh",
        parents=(),
        data=("mixture",),
        reads="stable mixture",
        objective="next_token",
        trains=None,
        learning_rate="own",
        endless=True,
        averaged=True,
        followed_by="anneal",
        ranked_by="bits_per_byte",
        colour="#33658a",
    ),
    "anneal": Stage(
        starts="branch",
        parents=("pretrain", "anneal"),
        data=("mixture",),
        reads="decay mixture (SFT data in it)",
        objective="next_token",
        trains=None,
        learning_rate="trunk",
        endless=False,
        averaged=True,
        followed_by="sft",
        ranked_by="bits_per_byte",
        colour="#e07a2f",
    ),
    "sft": Stage(
        starts="initialise",
        parents=("pretrain", AVERAGE, "anneal", "sft"),
        data=("tokens", "mixture"),
        reads="conversations, assistant tokens only",
        objective="next_token",
        trains=None,
        learning_rate="parent",
        endless=False,
        averaged=True,
        followed_by="dpo",
        ranked_by="assistant_loss",
        colour="#3a9a5b",
    ),
    "dpo": Stage(
        starts="initialise",
        parents=(AVERAGE, "anneal", "sft", "dpo"),
        data=("tokens",),
        reads="preference pairs",
        objective="dpo",
        trains=None,
        learning_rate="own",
        endless=False,
        averaged=False,  # pairs are compared with a reference that an average would blur
        followed_by=None,
        ranked_by="preference_accuracy",
        colour="#8e4fa8",
    ),
}


def check_table(stages: Mapping[str, Stage]) -> None:
    """Refuse rows that name what there is not, or contradict themselves. Raises: ConfigError naming row and entry."""
    for name, stage in stages.items():
        for entry, named, known in (
            ("starts", (stage.starts,), ("fresh", "branch", "initialise")),
            ("learning_rate", (stage.learning_rate,), ("own", "parent", "trunk")),
            ("parents", stage.parents, (*stages, AVERAGE)),
            ("followed_by", (stage.followed_by,), (*stages, None)),
        ):
            if unknown := [str(value) for value in named if value not in known]:
                raise ConfigError(
                    f"STAGES[{name!r}].{entry} names {', '.join(unknown)}; there are {', '.join(map(str, known))}"
                )
        if (stage.starts == "fresh") == bool(stage.parents):
            raise ConfigError(
                f"STAGES[{name!r}] starts {stage.starts} with parents {stage.parents}; "
                "a fresh run has none, any other has some"
            )
        check_kinds(stage.trains, f"STAGES[{name!r}].trains")
        if stage.branches and AVERAGE in stage.parents:
            raise ConfigError(f"STAGES[{name!r}].parents has {AVERAGE}, which keeps no optimizer state to branch from")


def check_objectives(stages: Mapping[str, Stage], known: Collection[str]) -> None:
    """Refuse rows whose objective is not known. It is apart, since this table is read by commands that train nothing
    and need none. Raises: ConfigError naming row and entry.
    """
    for name, stage in stages.items():
        if stage.objective not in known:
            raise ConfigError(f"STAGES[{name!r}].objective names {stage.objective}; there are {', '.join(known)}")


check_table(STAGES)
TRAINED = (*STAGES, AVERAGE)  # kinds of artifacts that hold checkpoints


def stage_named(name: str) -> Stage:
    """A stage's row. Raises: ConfigError for an unknown name, with the known ones."""
    if name not in STAGES:
        raise ConfigError(f"{name} is no training stage; there are {', '.join(STAGES)}")
    return STAGES[name]
