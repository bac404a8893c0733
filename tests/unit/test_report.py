"""The report's numbers and its one file."""

import dataclasses
import re
import warnings

import pytest

from pipelines.display.report import StageResult, claims, figures, stage_table, write_report
from pipelines.display.report.drawing import PALETTE, smooth, stage_colours
from pipelines.display.report.results import given_over_tokens
from pipelines.train.tasks import TASKS
from pipelines.train.tasks.task import Chart, Column, Measured, Number, Sample, Task, TaskPlan


def evaluation(bits, loss, accuracy, source="prose"):
    """What `workflows.evaluate` writes, of two tasks that measure and one that writes."""
    described = {
        "text": TASKS["text"].described(
            Measured(
                rows={
                    source: {"kind": "documents", "bits_per_byte": bits, "loss": 4.0, "tokens": 10},
                    "chat": {"kind": "conversations", "bits_per_byte": 1.0, "loss": loss, "tokens": 10},
                },
                summary={"bits_per_byte": bits, "assistant_loss": loss, "assistant_bits_per_byte": 1.0},
            )
        ),
        "preferences": TASKS["preferences"].described(
            Measured(
                rows={"pairs": {"accuracy": accuracy, "pairs": 10}},
                summary={"preference_accuracy": accuracy, "preference_summed_accuracy": None},
            )
        ),
        "completions": TASKS["completions"].described(
            Measured(samples=(Sample(prompt="却说<曹操>", note="text", text="<script>alert(1)</script>", tokens=3),))
        ),
    }
    return {"tasks": described}


def curve(first, last, loss, rate, **extras):
    return [
        {
            "step": i + 1,
            "tokens": first + (i + 1) * (last - first) // 10,
            "loss": loss - i / 20,
            "learning_rate": rate,
            **extras,
        }
        for i in range(10)
    ]


RESULTS = [
    StageResult(
        kind="pretrain",
        reference="pretrain/d@step-20",
        tokens_end=200,
        curve=curve(0, 200, 8, 0.01),
        seconds=20.4,
        evaluation=evaluation(3.0, 5.0, 0.5),
        asked={"prose": 0.75, "zh": 0.25},
        delivered={"prose": 15, "zh": 5},
    ),
    StageResult(
        kind="pretrain",
        reference="pretrain/d",
        tokens_end=300,
        curve=curve(0, 300, 8, 0.01),
        evaluation=evaluation(2.8, 4.9, 0.5),
    ),
    StageResult(
        kind="anneal",
        reference="anneal/d",
        parent="pretrain/d@step-20",
        tokens_start=200,
        tokens_end=300,
        curve=curve(200, 300, 7, 0.005),
        evaluation=evaluation(2.5, 4.0, 0.5),
        asked={"prose": 1.0},
        delivered={"prose": 10},
    ),
    StageResult(
        kind="sft",
        reference="sft/d",
        parent="anneal/d",
        tokens_start=300,
        tokens_end=350,
        curve=curve(300, 350, 4, 0.001),
        loss_counts="assistant tokens",
        evaluation=evaluation(2.6, 3.0, 0.6),
    ),
    StageResult(
        kind="dpo",
        reference="dpo/d",
        parent="sft/d@step-9",
        tokens_start=350,
        tokens_end=400,
        loss_counts="pairs",
        curve=curve(350, 400, 0.69, 1e-5, accuracy=0.6),
        evaluation=evaluation(2.6, 3.1, 0.8),
    ),
]


def logged(rows):
    """Rows as training writes them, of windows of 10 tokens: the sources' tokens on some rows only."""
    return [
        {
            "step": i + 1,
            "tokens": tokens,
            "samples": tokens // 10,
            "loss": 5.0 - i / 10,
            "learning_rate": 0.01,
            **({"tokens_by_source": given} if given else {}),
        }
        for i, (tokens, given) in enumerate(rows)
    ]


def changed(index, **fields):
    return [dataclasses.replace(result, **fields) if i == index else result for i, result in enumerate(RESULTS)]


def test_claims_are_computed_against_the_right_rival():
    trunk, answers, pairs = claims(RESULTS)
    assert [claim.holds for claim in (trunk, answers, pairs)] == [True, True, True]
    assert trunk.numbers == "anneal/d 2.5000, pretrain/d 2.8000 bits per byte (-0.3000)"  # of 300 tokens, not of 200
    assert answers.numbers == "sft/d 3.0000, anneal/d 4.0000 nats per token (-1.0000)"
    assert pairs.numbers == "dpo/d 80.0%, sft/d 60.0% of pairs (+20.0%)"


@pytest.mark.parametrize(
    ("index", "fields", "claim", "holds"),
    [
        (2, {"evaluation": evaluation(2.9, 4.0, 0.5)}, 0, False),
        (1, {"tokens_end": 280}, 0, None),  # no trunk of the same tokens
        (3, {"evaluation": evaluation(2.6, 4.0, 0.6)}, 1, False),  # equal is not lower
        (3, {"evaluation": None}, 1, None),
        (4, {"evaluation": evaluation(2.6, 3.0, 0.6)}, 2, False),
        (4, {"parent": "sft/other"}, 2, None),
    ],
)
def test_a_claim_fails_or_is_left_open_when_the_numbers_say_so(index, fields, claim, holds):
    assert claims(changed(index, **fields))[claim].holds is holds


def test_the_stage_table_has_a_row_per_checkpoint():
    header, rows = stage_table(RESULTS)
    assert header == [
        "stage", "tokens", "LR", "prose", "mean", "assistant loss", "preference accuracy", "seconds", "artifact",
    ]  # fmt: skip
    assert len(rows) == 5
    assert {len(row) for row in rows} == {len(header)}
    first, dpo = dict(zip(header, rows[0], strict=True)), dict(zip(header, rows[4], strict=True))
    assert (first["tokens"], first["LR"], first["prose"], first["seconds"]) == ("200", "0.01", 3.0, 20)
    assert (dpo["preference accuracy"], dpo["seconds"], dpo["artifact"]) == ("80.0%", None, "dpo/d")


def test_a_stage_and_a_task_that_nobody_knew_are_in_table_curves_and_page(tmp_path):
    new = Task(
        Settings=object,
        plan_task=lambda subject, settings: TaskPlan(announcement=""),
        measure=lambda model, subject, settings: Measured(),
        title="Needles",
        reading="Found needles.",
        row="depth",
        columns={"found": Column(heading="found", share=True)},
        numbers={
            "needles_found": Number(label="all", unit="of needles", better="higher", heading="needles", share=True)
        },
        chart=Chart(
            name="needles", kind="bars", column="found", title="Needles", axis="found", caption="By depth <10 %>."
        ),
    )
    needles = new.described(Measured(rows={"10 %": {"found": 0.5}}, summary={"needles_found": 0.5}))
    tasks = {**evaluation(2.4, 3.9, 0.5)["tasks"], "needle": needles}
    added = StageResult(
        kind="longer", reference="longer/d", parent="dpo/d@step-9", tokens_start=400, tokens_end=500,
        curve=curve(400, 500, 3, 0.001), evaluation={"tasks": tasks},
    )  # fmt: skip
    results = [*RESULTS, added]
    header, rows = stage_table(results)
    assert rows[-1][0] == "longer"
    assert [row[header.index("needles")] for row in rows] == [None] * 5 + ["50.0%"]
    assert header.index("needles") == header.index("preference accuracy") + 1
    drawn = figures(results)
    assert "longer d" in [text.get_text() for text in drawn["loss"].axes[0].get_legend().get_texts()]
    assert [text.get_text() for text in drawn["needles"].axes[0].get_xticklabels()] == ["10 %"]
    colours = stage_colours(results)
    assert list(colours) == ["pretrain", "anneal", "sft", "dpo", "longer"]
    assert list(colours.values()) == list(PALETTE[:5])
    write_report(tmp_path / "report.html", results)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "By depth &lt;10 %&gt;." in text
    assert f'<span class="dot" style="background:{colours["longer"]}"></span>longer' in text


def test_smoothing_keeps_a_line_and_averages_the_end():
    assert smooth([2.0] * 7, 3).tolist() == [2.0] * 7
    assert smooth([0, 1, 2, 3, 4], 1).tolist() == [0, 1, 2, 3, 3.5]
    assert smooth([6, 0, 0], 5).tolist() == [6, 2, 2]


def test_figures_leave_out_what_has_no_numbers():
    assert set(figures(RESULTS)) == {
        "loss", "learning_rate", "preference_training", "bits_per_byte", "preference_accuracy", "mixture",
    }  # fmt: skip
    assert set(figures([dataclasses.replace(RESULTS[1], evaluation=None)])) == {"loss", "learning_rate"}
    assert figures([]) == {}


def test_delivered_is_set_against_asked_at_every_logged_step():
    rows = [(140, None), (180, {"prose": 60, "zh": 20}), (220, None), (260, {"prose": 120, "zh": 40})]
    mixed = StageResult(
        kind="anneal",
        reference="anneal/m",
        tokens_start=100,
        tokens_end=260,
        curve=logged(rows),
        asked={"zh": 0.3, "prose": 0.7},
    )
    tokens, share, asked, off = given_over_tokens(mixed)
    assert tokens.tolist() == [100, 180, 260]
    assert list(asked.items()) == [("prose", 0.7), ("zh", 0.3)]
    assert share.tolist() == [[0.75] * 3, [0.25] * 3]
    assert off.round(6).tolist() == [[0, 0.4, 0.8], [0, -0.4, -0.8]]  # 60 of 80 tokens, asked 56: 0.4 windows ahead
    drawn = figures([mixed])["mixture_over_tokens"]
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["zh 30.0%", "prose 70.0%"]
    assert [line.get_ydata()[0] for line in drawn.axes[0].lines] == [0.7]
    assert given_over_tokens(dataclasses.replace(mixed, asked={})) is None
    assert given_over_tokens(RESULTS[0]) is None


def test_branches_start_on_the_trunk_at_their_branch_point():
    axes = figures(RESULTS)["loss"].axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [200, 300]
    trunk = next(line for line in axes.lines if line.get_label() == "pretrain d")
    assert dots[0].get_ydata()[0] == pytest.approx(
        next(y for x, y in zip(trunk.get_xdata(), trunk.get_ydata(), strict=True) if x == 210), abs=0.05
    )


def test_the_report_is_one_file_that_escapes_what_it_is_given(tmp_path):
    corpus = {
        "sources": {
            "prose": {
                "kind": "documents",
                "licence": "MIT",
                "train": {"documents": 5},
                "dropped": {"quality.too_short": 3},
            },
            "pairs": {"kind": "preferences", "licence": "unclear-upstream (none stated)"},
        }
    }
    results = changed(2, evaluation=evaluation(2.5, 4.0, 0.5, source="三国"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a missing glyph
        write_report(tmp_path / "report.html", results, corpus, "Trunk & line")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert not re.search(r"https?://", text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "却说&lt;曹操&gt;" in text
    assert "<title>Trunk &amp; line</title>" in text
    assert text.count("<img") == 6
    assert text.count("✓") == 3
    assert "quality.too_short 3" in text
    assert "<b>Licence unclear:</b> pairs" in text


def test_an_empty_report_says_that_nothing_is_known(tmp_path):
    write_report(tmp_path / "report.html", [])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "✓" not in text
    assert "✗" not in text
    assert "no run to compare with" in text
