"""The mean of several checkpoints of a run, uniform or exponentially weighted: the merge instead of a decay.

    python -m workflows.average parent=pretrain/demo                                     the last five
    python -m workflows.average -m parent=pretrain/demo kind=uniform,ema last=8
    python -m workflows.average parent=pretrain/demo name=late from_step=200 every_steps=40
    python -m workflows.average parent=pretrain/demo name=three 'steps=[320,360,400]'

Leaves weights alone: evaluate, export, sft and dpo take `parent=average/<name>`. Runs in this process, without Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.display.progress import say
from pipelines.identity import decisive
from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint.average import AverageConfig, average, plan_average
from pipelines.train.checkpoint.lineage import open_run
from pipelines.train.stages import AVERAGE
from workflows.entry import entry
from workflows.running import onward
from workflows.running.session import Session, of_run

CODE = tuple(f"pipelines.train.checkpoint.{module}" for module in ("average", "committed", "weights"))


def run(config: AverageConfig, session: Session) -> Artifact:
    """Make `average/<name>`, or find it finished."""
    planned = plan_average(config, session.store, session.resolve(config.parent))
    inputs = [planned.runs[-1].artifact]
    draft = session.begin(AVERAGE, config, planned.announcement, inputs, CODE, identity=planned.identity)
    if isinstance(draft, Artifact):
        return session.reused(draft, *_next_commands(draft, open_run(session.store, draft.folder).state, session))

    def reach() -> None:
        """What may fail before a rebuild takes anything down."""
        for run in planned.runs:
            run.checkpoint.verify()

    with session.track(draft, config, inputs, reach if draft.replaces else None, **of_run(planned.runs[-1])) as tracker:
        made, distance = average(session.store, config.name, draft.claim["fingerprint"], planned)
        say(f"   the average lies {distance:.2%} of the last checkpoint's norm away from it")
        tracker.metrics({"tokens": made.state["tokens"], "distance_from_last": distance}, made.step)
        tracker.tags({"trunkline.averaged": planned.announcement["weights"]})
        statistics = {
            "steps": made.step,
            "tokens": made.state["tokens"],
            "averaged": made.state["averaged"],
            "distance_from_last": distance,
        }
        artifact = draft.commit({**decisive(config), **planned.identity}, statistics)
    return session.done(artifact, *_next_commands(artifact, made.state, session))


def _next_commands(artifact: Artifact, state: Mapping[str, Any], session: Session) -> list[str]:
    """Args: state, of the averaged checkpoint."""
    rate = f"schedule.peak_lr={0.1 * state['learning_rate']:g}"
    remark = "a tenth of the LR that was averaged at"
    return onward.after_training(session, artifact.folder, artifact.folder, rate, remark=remark)


main = entry(AverageConfig, run, "average")

if __name__ == "__main__":
    main()
