"""Supervised fine-tuning: weights from the parent, conversations, loss on assistant tokens only.

python -m workflows.sft +experiment=demo
"""

from __future__ import annotations

from pipelines.store.artifact import Artifact
from pipelines.train.spec import TrainConfig
from workflows.entry import entry
from workflows.running.session import Session
from workflows.running.training import train_stage


def run(config: TrainConfig, session: Session) -> Artifact:
    """Run the stage; see `train_stage`."""
    return train_stage("sft", config, session)


main = entry(TrainConfig, run, "sft")

if __name__ == "__main__":
    main()
