"""Prints the fingerprint that a pretrain, an sft and a corpus of the smoke experiment have, without their inputs."""

import json

from pipelines.identity import fingerprint, identity
from pipelines.store.draft import Making
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import STAGES
from workflows import corpus
from workflows.command_line.composing import compose_config
from workflows.running import training

printed = {}
for stage in ("pretrain", "sft"):
    config = compose_config(stage, TrainConfig, ["+experiment=smoke"])
    objective = config.objective.name if config.objective else STAGES[stage].objective
    model = ModelConfig(layers=2, d_model=8, d_ff=16, heads=2, kv_heads=1, vocabulary=64, max_positions=32)
    making = Making(
        {**identity(config), "model": identity(model)}, code=training.code_of(objective, config.optimizer.kind)
    )
    printed[stage] = making.claim()["fingerprint"]
config = compose_config("corpus", corpus.CorpusConfig, ["+experiment=smoke"])
printed["corpus"] = fingerprint(Making(identity(config), code=corpus.code_of((), ())).claim()["identity"])
print(json.dumps(printed))
