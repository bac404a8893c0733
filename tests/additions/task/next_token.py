"""Whether the likeliest next token is the right one: the share of held-out documents of which that holds."""

from __future__ import annotations

from pipelines.config import Count, config_class
from pipelines.data.tokens.token_sources import open_sources
from pipelines.train.network.model import Transformer
from pipelines.train.tasks.generate import complete
from pipelines.train.tasks.task import Chart, Column, Measured, Number, Sample, Subject, Task, TaskPlan, TaskSettings
from pipelines.train.tasks.windows import document_ids


@config_class
class NextTokenSettings(TaskSettings):
    """How much is asked."""

    after: Count = 8  # tokens of a document that the model is given
    documents: Count = 20  # of a source, the first


def plan_next_token(subject: Subject, settings: NextTokenSettings) -> TaskPlan:
    """Find the sources of documents."""
    sources = tuple(
        name
        for name, source in subject.tokens.statistics["sources"].items()
        if source["kind"] == "documents" and source["heldout"]["documents"]
    )
    return TaskPlan(announcement=f"the token behind {settings.after} others", sources=sources)


def measure_next_token(model: Transformer, subject: Subject, settings: NextTokenSettings) -> Measured:
    """Ask for one token behind the beginning of each document."""
    rows, samples = {}, []
    for name, source in open_sources(subject.tokens, "heldout", plan_next_token(subject, settings).sources).items():
        shard = source.shard(0)
        documents = [document_ids(shard, number)[0] for number in range(min(shard.documents, settings.documents))]
        asked = [ids for ids in documents if len(ids) > settings.after]
        made = complete(model, [ids[: settings.after] for ids in asked], 1, stop_id=-1)
        right = [ids[settings.after] == answer[0] for ids, answer in zip(asked, made, strict=True)]
        rows[name] = {"asked": len(asked), "right": sum(right) / len(right)}
        samples.append(Sample(prompt=f"{name} <0>", note="a document", text=str(made[0]), tokens=1))
    asked_of_all = sum(row["asked"] for row in rows.values())
    share = sum(row["asked"] * row["right"] for row in rows.values()) / asked_of_all if asked_of_all else None
    return Measured(rows=rows, summary={"next_token_right": share}, samples=tuple(samples))


NEXT_TOKEN = Task(
    Settings=NextTokenSettings,
    plan_task=plan_next_token,
    measure=measure_next_token,
    title="Next token",
    reading="Share of documents whose next token the model thinks likeliest.",
    columns={
        "asked": Column(heading="documents"),
        "right": Column(heading="right", metric="next_token_right", share=True),
    },
    numbers={
        "next_token_right": Number(
            label="all documents",
            unit="of documents",
            better="higher",
            heading="next token",
            share=True,
            column="right",
        )
    },
    chart=Chart(
        name="next_token_right",
        kind="lines",
        column="right",
        total="next_token_right",
        title="Next token right",
        axis="share of documents",
        caption="Asked behind the beginning of each document.",
    ),
)
