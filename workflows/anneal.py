"""A branch off the trunk: the LR decays on the decay mixture, optimizer state and data position inherited.

python -m workflows.anneal +experiment=demo
python -m workflows.anneal +experiment=demo -m share=true schedule.decay=linear,1-sqrt
"""

from __future__ import annotations

from pipelines.store.artifact import Artifact
from pipelines.train.spec import TrainConfig
from workflows.entry import entry
from workflows.running.session import Session
from workflows.running.training import train_stage


def run(config: TrainConfig, session: Session) -> Artifact:
    """Run the stage; see `train_stage`."""
    return train_stage("anneal", config, session)


main = entry(TrainConfig, run, "anneal")

if __name__ == "__main__":
    main()
