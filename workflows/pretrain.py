"""The trunk: Warmup-Stable pretraining on the stable mixture, fresh or resumed.

python -m workflows.pretrain +experiment=demo
python -m workflows.pretrain +experiment=demo -m steps=240,480                a sweep, side by side where there is room
python -m workflows.pretrain +experiment=demo -m share=true steps=240,480     and the common steps trained once
"""

from __future__ import annotations

from pipelines.store.artifact import Artifact
from pipelines.train.spec import TrainConfig
from workflows.entry import entry
from workflows.running.session import Session
from workflows.running.training import train_stage


def run(config: TrainConfig, session: Session) -> Artifact:
    """Run the stage; see `train_stage`."""
    return train_stage("pretrain", config, session)


main = entry(TrainConfig, run, "pretrain")

if __name__ == "__main__":
    main()
