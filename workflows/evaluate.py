"""What a checkpoint knows: bits per byte by source, assistant loss, preference accuracy, sample completions.

    python -m workflows.evaluate parent=anneal/demo                    leaves evaluate/anneal-demo
    python -m workflows.evaluate -m parent=pretrain/demo@step-240,pretrain/demo@step-320,anneal/demo

Runs in this process, without Ray. A greater `max_tokens` measures on more of the held-out documents.
"""

from __future__ import annotations

import json

from pipelines.display.progress import duration, say, table
from pipelines.store.artifacts import Artifact
from pipelines.train.results.evaluate import EvaluateConfig, Results, evaluate, plan
from workflows.session import Session, entry

# the modules that decide the numbers
CODE = (
    *(f"pipelines.train.results.{module}" for module in ("evaluate", "scoring", "generate")),
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "batch", "model", "attention")),
    "pipelines.train.checkpoint.weights",
    "pipelines.data.stream.preferences",
    *(f"pipelines.data.tokens.{module}" for module in ("token_shards", "tokenizer", "chat")),
)


def run(config: EvaluateConfig, session: Session) -> Artifact:
    """Make `evaluate/<name>`, or find it finished; its numbers are in `results.json`."""
    planned = plan(config, session.store, session.resolve(config.parent))
    inputs = [planned.run.artifact, planned.tokens]
    held = session.begin("evaluate", config, planned.facts, inputs, CODE, identity=planned.identity)
    if isinstance(held, Artifact):
        return held
    reach = planned.run.checkpoint.verify if held.replaces else None
    with session.track(held, config, inputs, reach) as tracker:
        results = evaluate(config, planned)
        show(results)
        path = held.scratch("results.json")
        path.write_text(json.dumps(results.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        held.publish("results", {"results.json": path})
        # at step 0, so that MLflow draws bars beside each other and not points over the steps of unlike runs
        tracker.metrics({**metrics(results), "tokens_trained": results.tokens_trained}, 0)
        tracker.file(held.storage.fetch(f"{held.folder}/results.json"))
        statistics = {"parent": results.parent, "tokens_trained": results.tokens_trained, **results.overall}
        artifact = held.commit(planned.identity, statistics, planned.tokens.manifest["licences"])
    return session.done(artifact)


def metrics(results: Results) -> dict[str, float]:
    """The numbers under the names that MLflow shows."""
    values = {name: value for name, value in results.overall.items() if value is not None}
    for name, score in results.text.items():
        values[f"loss/{name}"] = score.loss
        if score.bits_per_byte is not None:
            values[f"bits_per_byte/{name}"] = score.bits_per_byte
    values.update((f"preference_accuracy/{name}", score.accuracy) for name, score in results.preferences.items())
    return values


def show(results: Results) -> None:
    """Print the tables and completions."""
    overall = results.overall
    rows = [
        [
            name,
            s.kind,
            s.language,
            s.documents,
            s.tokens,
            round(s.loss, 4),
            s.bits_per_byte and round(s.bits_per_byte, 4),
        ]
        for name, s in results.text.items()
    ]
    mean = overall["bits_per_byte"]
    rows.append(["mean of document sources", "", "", None, None, None, mean and round(mean, 4)])
    if overall["assistant_loss"] is not None:
        bits = overall["assistant_bits_per_byte"]
        rows.append(
            [
                "all assistant tokens",
                "",
                "",
                None,
                None,
                round(overall["assistant_loss"], 4),
                bits and round(bits, 4),
            ]
        )
    say(table(("source", "kind", "language", "documents", "tokens", "nats/token", "bits/byte"), rows))
    if results.preferences:
        pairs = [
            [name, s.pairs, f"{s.accuracy:.1%}", f"{s.summed_accuracy:.1%}", s.left_out]
            for name, s in results.preferences.items()
        ]
        total = sum(s.pairs for s in results.preferences.values())
        pairs.append(
            ["all pairs", total, *(f"{overall[f'preference_{k}accuracy'] or 0.0:.1%}" for k in ("", "summed_")), None]
        )
        say()
        say(table(("preferences", "pairs", "accuracy (mean)", "accuracy (sum)", "left out"), pairs))
    for name, reason in results.unmeasured.items():
        say(f"   {name} was not measured: {reason}")
    for completion in results.completions:
        sign = "chat" if completion.chat else "text"
        say(f"   {sign}  {completion.prompt!r} → {completion.text!r}")
    say(f"   evaluated in {duration(results.seconds)}")


main = entry(EvaluateConfig, run, "evaluate")

if __name__ == "__main__":
    main()
