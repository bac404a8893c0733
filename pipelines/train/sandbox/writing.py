"""Analyse the studies and write what they say: sandbox.html, results.json, the pictures.

Enters: studies with the results so far. Leaves: their outcomes; files in the artifact's folder. While trials run, a
page is drawn with short bootstraps, and not more often than one part in twenty of the time; the last one is whole.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.display.progress import say
from pipelines.errors import TrunklineError
from pipelines.store.draft import Draft
from pipelines.train.sandbox.costs import Costs
from pipelines.train.sandbox.ledger import StudyState
from pipelines.train.sandbox.page import StudyPage, draw, sandbox_page
from pipelines.train.sandbox.results import plain_result, to_json
from pipelines.train.studies.outcome import Outcome

PAGE, NUMBERS = "sandbox.html", "results.json"
_QUICK_BOOTSTRAP = 50
_SHARE = 0.05  # of the time, that pages may take while trials run


def analysed(state: StudyState, quick: bool = False) -> StudyPage:
    """What a study says of its results. Args: quick, while trials run: a fault is told on the page then."""
    settings, results = state.config.study, state.ordered()
    if quick:
        settings = dataclasses.replace(settings, bootstrap=min(_QUICK_BOOTSTRAP, settings.bootstrap))
    outcome, pictures, problem = Outcome(), [], ""
    if results:
        try:
            outcome = state.row.analyse(settings, results)
            pictures = draw(state.name, outcome.plots)
        except Exception as error:
            if not quick:
                raise
            problem = (
                f"Nothing can be said yet: {error}"
                if isinstance(error, TrunklineError)
                else (f"The analysis of what there is ended with {type(error).__name__}: {error}")
            )
    return StudyPage(
        name=state.name,
        study=state.row,
        outcome=outcome,
        results=results,
        trials=len(state.trials),
        varied={axis.name: [option.label for option in axis.options] for axis in state.expander.axes},
        seeds=state.config.seed_list,
        pictures=pictures,
        problem=problem,
    )


class Writer:
    """Writes the page of one sandbox."""

    def __init__(self, draft: Draft, name: str, command: str, every_seconds: float):
        self._draft, self._name, self._command, self._every = draft, name, command, every_seconds
        self._next = time.monotonic() + every_seconds

    def while_running(self, states: Sequence[StudyState], costs: Callable[[], Costs]) -> None:
        """Draw the page anew where its time has come."""
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        pages = [analysed(state, quick=True) for state in states]
        text = sandbox_page(self._name, pages, costs(), self._command, finished=False)
        self._draft.storage.write(f"{self._draft.folder}/{PAGE}", text.encode())
        now = time.monotonic()
        self._next = now + max(self._every, (now - began) / _SHARE)

    def last(self, states: Sequence[StudyState], costs: Costs, finished: bool) -> list[StudyPage]:
        """Analyse everything and publish the page, the numbers and the pictures."""
        pages = [analysed(state) for state in states]
        draft = self._draft
        files = {PAGE: sandbox_page(self._name, pages, costs, self._command, finished).encode()}
        files[NUMBERS] = to_json(numbers(self._name, pages, costs)).encode()
        files |= {picture.file: picture.content for page in pages for picture in page.pictures}
        paths = {}
        for name, content in files.items():
            paths[name] = draft.scratch(name)
            paths[name].write_bytes(content)
        draft.publish("page", paths)
        return pages


def numbers(name: str, pages: Sequence[StudyPage], costs: Costs) -> dict[str, Any]:
    """What results.json holds, for `workflows.plan` and for whoever draws pictures of their own."""
    return {
        "name": name,
        "studies": {
            page.name: {
                **page.outcome.plain(),
                "kind": getattr(page.study.Settings, "kind", page.name),
                "question": page.study.question,
            }
            for page in pages
        },
        "trials": [plain_result(page.name, result) for page in pages for result in page.results],
        "costs": {**dataclasses.asdict(costs), "seconds": costs.seconds, "saved_share": costs.saved_share},
    }


def say_findings(pages: Sequence[StudyPage]) -> None:
    """The findings on the terminal, each on two lines."""
    signs = {"reproduced": "✓", "contradicted": "✗", "cannot be told at this size": "?"}
    for page in pages:
        for finding in page.outcome.findings:
            here = f"{finding.quantity}: {finding.estimate}" if finding.estimate else finding.quantity
            say(f"   {signs[finding.verdict]} {page.name}: {finding.claim}: {finding.verdict}")
            say(f"     {here}; {finding.reason}; published: {finding.published}")
