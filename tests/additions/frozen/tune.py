"""A stage that trains everything but the embedding.

python -m workflows.tune parent=pretrain/<name>
"""

from __future__ import annotations

from pipelines.store.artifact import Artifact
from pipelines.train.spec import TrainConfig
from workflows.entry import entry
from workflows.running.session import Session
from workflows.running.training import train_stage


def run(config: TrainConfig, session: Session) -> Artifact:
    """Run the stage; see `train_stage`."""
    return train_stage("tune", config, session)


main = entry(TrainConfig, run, "tune")

if __name__ == "__main__":
    main()
