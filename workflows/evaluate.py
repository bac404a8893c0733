"""What a checkpoint knows: bits per byte by source, assistant loss, preference accuracy, sample completions.

    python -m workflows.evaluate parent=anneal/demo                    leaves evaluate/anneal-demo
    python -m workflows.evaluate -m parent=pretrain/demo@step-240,pretrain/demo@step-320,anneal/demo
    python -m workflows.evaluate parent=anneal/demo tasks.completions=null tasks.text.max_tokens=50000

Runs in this process, without Ray. Each task has its settings under `tasks.<name>`; null leaves a task out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.display.evaluation import metrics, print_results, values
from pipelines.display.progress import duration, say
from pipelines.identity import decisive
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules
from pipelines.train.results.evaluate import (
    EvaluateConfig,
    evaluate,
    of_this_version,
    plan_evaluation,
    read_results,
)
from pipelines.train.results.heldout import heldout_set
from workflows.entry import entry
from workflows.running.session import Session, of_run

_TOKENS = (
    "megatron",
    "sidecars.document_bytes",
    "sidecars.layouts",
    "sidecars.loss_mask",
    "token_shards",
    "token_sources",
    "tokenizer",
    "chat",
)
# the modules that decide the numbers, beside those of the tasks that are chosen
CODE = (
    "pipelines.train.results.evaluate",
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "batch", "model", "attention")),
    "pipelines.train.checkpoint.weights",
    "pipelines.data.stream.preferences",
    *(f"pipelines.data.tokens.{module}" for module in _TOKENS),
)


def code_of(tasks: Iterable[str]) -> tuple[str, ...]:
    """All modules that decide the numbers of these tasks."""
    return (*CODE, *chosen_modules("pipelines.train.tasks", tasks))


def run(config: EvaluateConfig, session: Session) -> Artifact:
    """Make `evaluate/<name>`, or find it finished; its numbers are in `results.json`."""
    planned = plan_evaluation(config, session.store, session.resolve(config.parent))
    code = code_of(config.tasks)
    draft = session.begin("evaluate", config, planned.announcement, planned.inputs, code, identity=planned.identity)
    if isinstance(draft, Artifact):
        if not session.within_recipe and of_this_version(draft):
            print_results(read_results(draft))
        return draft
    subject = planned.subject
    reach = subject.run.checkpoint.verify if draft.replaces else None
    with session.track(draft, config, planned.inputs, reach, **of_run(subject.run)) as tracker:
        results = evaluate(config, planned).to_json()
        print_results(results)
        say(f"   evaluated in {duration(results['seconds'])}")
        path = draft.scratch("results.json")
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.publish("results", {"results.json": path})
        # at step 0, so that MLflow draws bars beside each other and not points over the steps of unlike runs
        tracker.metrics({**metrics(results), "tokens_trained": results["tokens_trained"]}, 0)
        heldout = heldout_set(planned.identity, {artifact.folder: artifact.fingerprint for artifact in planned.inputs})
        tracker.tags({"trunkline.heldout": heldout})
        tracker.evaluated(subject.run.artifact, heldout, measured(results), subject.run.checkpoint.step)
        tracker.file(draft.storage.fetch(f"{draft.folder}/results.json"))
        told = {"parent": results["parent"], "tokens_trained": results["tokens_trained"], "tasks": list(config.tasks)}
        recorded = {**decisive(config), **planned.identity, "tasks": decisive(config.tasks)}
        licences = subject.tokens.manifest["licences"]
        artifact = draft.commit(recorded, {**told, **values(results)}, licences)
    return session.done(artifact)


def measured(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers as the run that was evaluated shows them, beside the loss that it was trained with."""
    return {re.sub("^loss/", "heldout_loss/", name): value for name, value in metrics(results).items()}


main = entry(EvaluateConfig, run, "evaluate")

if __name__ == "__main__":
    main()
