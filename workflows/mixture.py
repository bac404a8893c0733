"""Weights to a mixture plan: token budgets and epochs per source, or a refusal that says what fits.

    python -m workflows.mixture tokens=tokens/demo mixture=demo_stable
    python -m workflows.mixture tokens=tokens/demo mixture=demo_stable name=more_code \\
        mixture.weights.stdlib=0.3 mixture.weights.sotu=0.3
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipelines.artifacts import Artifact
from pipelines.config import WorkflowConfig
from pipelines.data.mixture import HEADER, MixtureRecipe, plan_mixture, rows
from pipelines.errors import ArtifactError
from pipelines.progress import human, say, table
from workflows.session import Session, entry

CODE = ("pipelines.data.mixture",)


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(WorkflowConfig):
    """Which tokens are mixed, and how."""

    tokens: str  # tokens/<name>
    mixture: MixtureRecipe


def run(config: MixtureConfig, session: Session) -> Artifact:
    """Make `mixture/<name>`, or find it finished."""
    tokens = session.store.get(session.resolve(config.tokens))
    if tokens.manifest["kind"] != "tokens":
        raise ArtifactError(f"tokens={config.tokens} is of kind {tokens.manifest['kind']}; expected tokens/<name>")
    plan = plan_mixture(config.mixture, tokens.folder, tokens.fingerprint, tokens.statistics)
    facts = {
        "tokens": f"{tokens.folder}  {len(tokens.statistics['sources'])} sources",
        "budget": f"{human(plan.budget_tokens)} tokens, no source more than {config.mixture.max_epochs:g} times",
    }
    if plan.dropped:
        facts["dropped"] = (
            ", ".join(f"{name} ({weight:.1%})" for name, weight in plan.dropped.items())
            + "; their weight is shared out"
        )
    held = session.begin("mixture", config, facts, [tokens], CODE)
    say(table(HEADER, rows(plan)))
    if isinstance(held, Artifact):
        return held

    with session.track(held, config, [tokens]) as tracker:
        path = held.scratch("mixture.json")
        path.write_text(json.dumps(plan.to_json(), indent=1, ensure_ascii=False) + "\n")
        held.publish("mixture", {"mixture.json": path})
        tracker.metrics({f"weight.{source.name}": source.weight for source in plan.sources}, step=0)
        statistics = {
            "budget_tokens": plan.budget_tokens,
            "sources": {s.name: {"weight": s.weight, "epochs": s.epochs} for s in plan.sources},
        }
        artifact = held.commit(
            config=held.claim["identity"]["config"], statistics=statistics, licences=tokens.manifest["licences"]
        )
    return session.done(artifact, f"python -m workflows.pretrain name={config.name} data=mixture/{config.name}")


main = entry(MixtureConfig, run, "mixture")

if __name__ == "__main__":
    main()
