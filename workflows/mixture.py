"""Weights to a mixture plan: token budgets and epochs per source, or a refusal that says what fits.

    python -m workflows.mixture tokens=tokens/demo mixture=demo_stable
    python -m workflows.mixture tokens=tokens/demo mixture=demo_stable name=more_code \\
        mixture.weights.stdlib=0.3 mixture.weights.sotu=0.3
    python -m workflows.mixture mixture=minicpm_decay tokens=tokens/minicpm dry_run=true     before there are tokens
"""

from __future__ import annotations

import dataclasses
import json

from pipelines.config import WorkflowConfig, config_class
from pipelines.data.stream.asked_mixture import AskedMixture, settle
from pipelines.data.stream.mixture import HEADER, foreseen, plan_mixture, rows
from pipelines.display.progress import announce, human, say, table
from pipelines.errors import ArtifactError
from pipelines.identity import decisive
from pipelines.store.artifact import Artifact
from workflows.entry import entry
from workflows.running import onward
from workflows.running.session import DryRun, Session

CODE = ("pipelines.data.stream.mixture",)


@config_class
class MixtureConfig(WorkflowConfig):
    """Which tokens are mixed, and how."""

    tokens: str  # tokens/<name>
    mixture: AskedMixture


def run(config: MixtureConfig, session: Session) -> Artifact:
    """Make `mixture/<name>`, or find it finished."""
    try:
        tokens = session.store.get_kind("tokens", "tokens", session.resolve(config.tokens))
    except ArtifactError as error:
        if config.dry_run:
            _foresee(config, str(error))
        raise
    recipe, told = settle(config.mixture, tokens.folder, tokens.statistics)
    config = dataclasses.replace(config, mixture=AskedMixture.of(recipe))
    mixture_plan = plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics)
    announcement = {
        "tokens": f"{tokens.folder}  {len(tokens.statistics['sources'])} sources",
        "budget": f"{human(mixture_plan.budget_tokens)} tokens, no source more than {config.mixture.max_epochs:g} "
        "times",
        **told,
        **_left_out(mixture_plan.dropped),
    }
    shown = table(HEADER, rows(mixture_plan))
    try:
        draft = session.begin("mixture", config, announcement, [tokens], CODE)
    except DryRun:
        say(shown)
        raise
    say(shown)
    if isinstance(draft, Artifact):
        return session.reused(draft, *onward.after_mixture(session, config.name, mixture_plan))

    with session.track(draft, config, [tokens]) as tracker:
        path = draft.scratch("mixture.json")
        path.write_text(json.dumps(mixture_plan.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.publish("mixture", {"mixture.json": path})
        tracker.metrics({f"weight.{source.name}": source.weight for source in mixture_plan.sources}, step=0)
        statistics = {
            "budget_tokens": mixture_plan.budget_tokens,
            "sources": {s.name: {"weight": s.weight, "epochs": s.epochs} for s in mixture_plan.sources},
        }
        artifact = draft.commit(config=decisive(config), statistics=statistics, licences=tokens.manifest["licences"])
    return session.done(artifact, *onward.after_mixture(session, config.name, mixture_plan))


def _foresee(config: MixtureConfig, why: str) -> None:
    """Announce what the recipe alone says, and end the dry run; of one that says no budget nothing is to be said."""
    stated = config.mixture
    if not isinstance(stated.weights, dict) or stated.budget_tokens is None:
        return
    weights, absent = foreseen(stated.stated(stated.budget_tokens))
    budget = stated.budget_tokens
    announcement = {
        "tokens": f"planned by weight alone, epochs unknown: {why}",
        "budget": f"{human(budget)} tokens, no source more than {config.mixture.max_epochs:g} times",
        **_left_out(absent),
    }
    announce(f"mixture/{config.name}", announcement)
    asked = stated.weights
    lines = [[name, f"{asked[name]:.2%}", f"{w:.2%}", round(w * budget)] for name, w in weights.items()]
    lines += [[name, f"{weight:.2%}", "left out", None] for name, weight in absent.items()]
    say(table(["source", "asked", "planned", "budget tokens"], [*lines, ["total", "100.00%", "100.00%", budget]]))
    raise DryRun


def _left_out(dropped: dict[str, float]) -> dict[str, str]:
    if not dropped:
        return {}
    total = sum(dropped.values())
    names = ", ".join(f"{name} ({weight:.2%})" for name, weight in dropped.items())
    return {"left out": f"{names}: {total:.2%} in all; every other weight is multiplied by {1 / (1 - total):.4f}"}


main = entry(MixtureConfig, run, "mixture")

if __name__ == "__main__":
    main()
