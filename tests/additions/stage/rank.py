"""A toy stage: preference pairs straight from the trunk.

python -m workflows.rank parent=pretrain/<name>@step-N
"""

from __future__ import annotations

from pipelines.store.artifact import Artifact
from pipelines.train.spec import TrainConfig
from workflows.entry import entry
from workflows.running.session import Session
from workflows.running.training import train_stage


def run(config: TrainConfig, session: Session) -> Artifact:
    """Run the stage; see `train_stage`."""
    return train_stage("rank", config, session)


main = entry(TrainConfig, run, "rank")

if __name__ == "__main__":
    main()
