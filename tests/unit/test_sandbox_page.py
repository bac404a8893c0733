"""The page, the numbers, the live table and the receipts of a sandbox, with a toy study and made-up losses."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.display.progress import LiveBlock, say
from pipelines.errors import ArtifactError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.sandbox.config import PriceConfig
from pipelines.train.sandbox.costs import Costs, priced
from pipelines.train.sandbox.expand import Trial
from pipelines.train.sandbox.ledger import Ledger, StudyState, failed
from pipelines.train.sandbox.page import StudyPage, sandbox_page
from pipelines.train.sandbox.planned import planned_result
from pipelines.train.sandbox.results import to_json
from pipelines.train.sandbox.searching import StudySearch
from pipelines.train.sandbox.table import TrialTable
from pipelines.train.sandbox.writing import NUMBERS, PAGE, Writer, analysed, numbers
from pipelines.train.studies import STUDIES
from pipelines.train.trials.result import Measured, Status, TrialResult
from tests.unit.toy_study import TOY, sandbox
from workflows.command_line.devices import read_device
from workflows.studies import study_state


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, "toy", TOY)


COSTS = Costs(
    trials=4, runs=4, edges=4, tokens_naive=4_000_000, tokens_shared=1_000_000, flops_naive=4e12, flops_shared=1e12,
    flops_per_second=1e10, measured=True, lanes=2, **priced(PriceConfig(), read_device("a100")),
)  # fmt: skip


def state_of(study: dict[str, Any] | None = None) -> StudyState:
    state = study_state("toy", sandbox(study))
    state.plan(state.trials, None)
    return state


def ended(state: StudyState, trial: Trial, status: Status = "finished", loss: float = 2.5) -> TrialResult:
    runs = state.runs[trial.name]
    result = planned_result(trial, runs, status, "its loss is <nan>" if status != "finished" else "")
    row = Measured(
        measure="heldout", folder=runs[-1].folder, step=runs[-1].steps, tokens=runs[-1].tokens, values={"web": loss}
    )
    return dataclasses.replace(result, measured=(row,) if status == "finished" else ())


@pytest.fixture
def state() -> StudyState:
    state = state_of()
    for trial in state.trials[:3]:
        state.results[trial.name] = ended(state, trial, loss=2.5 + trial.seed / 10)
    state.results[state.trials[3].name] = ended(state, state.trials[3], "diverged")
    return state


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    draft = ArtifactStore(str(tmp_path / "store")).begin("sandbox", "box", {})
    assert isinstance(draft, Draft)
    return draft


def test_the_page_is_whole_and_needs_no_network(state: StudyState) -> None:
    page = sandbox_page("box", [analysed(state)], COSTS, "python -m workflows.sandbox name=box", finished=True)
    assert re.findall(r'(?:src|href)="(?!data:image|#)[^"]*"', page) == []
    assert "<script" not in page
    # text of studies is escaped
    assert "&lt;best&gt;" in page
    assert "the best learning rate is &lt;0.01&gt;" in page
    assert "its loss is &lt;nan&gt;" in page
    # the findings stand above the studies
    assert page.index("What was found") < page.index("cannot be told") < page.index('<h2 id="toy">')
    for said in ("1 diverged", "Lower is better.", "data:image/svg+xml", "75%", "It is a toy.", "schedule.peak_lr"):
        assert said in page, said


def test_a_page_of_nothing_and_of_half_say_so(state: StudyState) -> None:
    empty = state_of()
    page = sandbox_page("box", [analysed(empty, quick=True)], COSTS, "", finished=False)
    assert "0 of 4 trials have ended" in page
    assert "Nothing yet" in page
    half = state_of()
    half.results[half.trials[0].name] = ended(half, half.trials[0])
    assert "1 of 4 trials have ended" in sandbox_page("box", [analysed(half, quick=True)], COSTS, "", finished=False)


def test_a_fault_in_an_analysis_costs_no_trial(state: StudyState) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("of nothing")

    state.row = dataclasses.replace(TOY, analyse=broken)
    assert "ended with ZeroDivisionError: of nothing" in analysed(state, quick=True).problem
    with pytest.raises(ZeroDivisionError):
        analysed(state)


def test_numbers_are_json_that_plan_reads(state: StudyState, draft: Draft) -> None:
    writer = Writer(draft, "box", "command", every_seconds=1000)
    writer.last([state], COSTS, finished=True)
    artifact = draft.commit({}, {})
    results = artifact.json(NUMBERS)
    assert results["studies"]["toy"]["kind"] == "toy"
    assert results["studies"]["toy"]["findings"][0]["estimate"]["value"] == 0.01
    assert results["studies"]["toy"]["proposals"][0]["key"] == "schedule.peak_lr"
    assert results["studies"]["toy"]["laws"]["toy"]["law"] == "power"
    trial = results["trials"][0]
    assert (trial["study"], trial["status"], trial["loss"], trial["seed"]) == ("toy", "finished", 2.5, 0)
    assert set(artifact.manifest["files"]) == {PAGE, NUMBERS, "plots/toy-losses.svg"}
    assert json.loads(to_json({"a": float("nan")})) == {"a": None}
    page: StudyPage = analysed(state)
    assert numbers("box", [page], COSTS)["costs"]["saved_share"] == 0.75


def test_receipts_outlive_the_command(state: StudyState, draft: Draft) -> None:
    ledger = Ledger(draft)
    for trial in state.trials:
        ledger.note(trial, state.results[trial.name])
    again, found = Ledger(draft), state_of()
    for trial in found.trials:
        result = again.find(found, trial)
        assert result is not None
        before = state.results[trial.name]
        assert (result.status, result.reason, result.measured) == (before.status, before.reason, before.measured)
    # a trial of other settings has none
    other = state_of({"vary": {"schedule.peak_lr": [0.5]}})
    assert again.find(other, other.trials[0]) is None
    key = draft.storage.keys(f"{draft.folder}/receipts/trials")[0]
    draft.storage.write(key, draft.storage.read(key).replace(b"0.003", b"0.004"))
    with pytest.raises(ArtifactError, match=r"does not match its own checksum.*delete it"):
        Ledger(draft)


def test_failed_trials_are_tried_again(draft: Draft) -> None:
    state = state_of()
    trial = state.trials[0]
    state.results[trial.name] = ended(state, trial, "failed")
    ledger = Ledger(draft)
    ledger.note(trial, state.results[trial.name])
    assert Ledger(draft).find(state, trial) is None
    assert [result.name for _, result in failed([state])] == [trial.name]


def test_a_second_round_is_asked_for_once_when_the_first_has_ended(state: StudyState) -> None:
    again = state_of({"study": {"kind": "toy", "again": True}})
    for trial in again.trials[:3]:
        again.results[trial.name] = ended(again, trial, loss=2.5 - trial.seed / 10)
    assert again.further(None) == []
    again.results[again.trials[3].name] = ended(again, again.trials[3], loss=1.5)
    (more,) = again.further(None)
    assert (more.round, more.seed, more.settings) == (1, 100, {"schedule.peak_lr": 0.01})
    assert again.trials[-1] is more
    assert again.further(None) == []
    assert not again.ended()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_table_is_drawn_in_place(state: StudyState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    table = TrialTable({"toy": 4}, LiveBlock(stream))
    table.found("toy", state.ordered()[0])
    table.ended("toy", state.ordered()[1])
    table.show(running=2, last=True)
    first = stream.getvalue()
    assert "toy    2/4" in first
    assert "2 to go" in first
    table.ended("toy", state.ordered()[3])
    table.show(last=True)
    assert f"\033[{first.count(chr(10))}F\033[J" in stream.getvalue()[len(first) :]
    # what is said in between stays
    monkeypatch.setattr("sys.stdout", stream)
    say("a warning")
    place = len(stream.getvalue())
    table.show(last=True)
    assert "\033[J" not in stream.getvalue()[place:]


def test_without_a_terminal_ended_trials_are_lines(state: StudyState, capsys: pytest.CaptureFixture[str]) -> None:
    table = TrialTable({"toy": 4})
    for result in state.ordered():
        table.ended("toy", result)
    table.show(last=True)
    said = capsys.readouterr().out
    assert "✗ toy: peak_lr=0.01 seed=1  diverged: its loss is <nan>" in said
    assert "4/4 trials, 1 more since" in said


def test_the_table_says_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str]) -> None:
    table = TrialTable({"toy": 4})
    table.progressed(100.0, more=True)
    table.progressed(75.0)
    table._began -= 60
    table.show(running=3, last=True)
    assert "0/4 trials, 3 to go  in 1m00s, ETA 3m00s" in capsys.readouterr().out


def test_a_search_goes_on_from_its_receipts(draft: Draft, tmp_path: Path) -> None:
    search = {"trials": 4, "space": {"schedule.peak_lr": {"log": [0.001, 0.1]}}, "startup_trials": 2}
    store = ArtifactStore(str(tmp_path / "store"))

    def begun(ledger: Ledger) -> tuple[StudyState, StudySearch]:
        state = state_of({"vary": {}, "search": search, "seeds": 2})
        assert state.trials == []
        return state, StudySearch(state, store, draft.folder, list(ledger.of_search("toy")))

    def told(state: StudyState, searching: StudySearch, trials: list[Trial], note: Callable[..., None]) -> None:
        for trial in trials:
            result = ended(state, trial, loss=2 + trial.settings["schedule.peak_lr"])
            state.results[trial.name] = result
            note(trial, result)
            searching.ended(trial, result)

    ledger = Ledger(draft)
    state, searching = begun(ledger)
    assert searching.left == 4
    first, second = searching.ask(), searching.ask()
    assert [trial.seed for trial in first] == [0, 1]
    assert first[0].name.startswith("#0 peak_lr=")
    told(state, searching, first, ledger.note)
    told(state, searching, second[:1], ledger.note)  # the driver is killed before its other seed has ended

    again, searching = begun(Ledger(draft))
    assert [trial.name for trial in again.trials] == [trial.name for trial in [*first, second[0]]]
    assert searching.left == 3
    assert [trial.name for trial in searching.ask()] == [trial.name for trial in second]
    assert len(again.trials) == 4
