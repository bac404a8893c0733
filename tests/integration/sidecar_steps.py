"""Tokens with sidecars, and a training run that notes what reaches each of its steps. Run in a tree to which sidecars
were added.

python -m tests.integration.sidecar_steps prepare STORE          tokens, a mixture over them, specs of two equal runs
torchrun ... -m tests.integration.sidecar_steps train STORE RUN  train; DIE_IN_STEP ends the process in that step, once
a checkpoint is committed
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 6


def prepare(store_uri: str) -> None:
    """Encode a corpus with every sidecar of the table, and write `spec-<run>.json` for two runs of the same stream."""
    from pipelines.data.stream.mixture import MixtureRecipe, plan_mixture
    from pipelines.data.tokens.sidecars import SIDECARS
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.store.draft import Draft
    from tests.integration.conftest import claimed_spec, train_config
    from tests.untrained import commit_tokens

    store = ArtifactStore(store_uri)
    texts = {name: [f"{name} {'tells ' * (i % 9)}of {i} things." for i in range(60)] for name in ("one", "two")}
    tokens = commit_tokens(
        store, texts, [("1 + 1?", "It is 2.")] * 40, [("2 + 2?", "4", "fish")], sidecars=tuple(SIDECARS)
    )
    recipe = MixtureRecipe(weights={"one": 0.5, "two": 0.3, "chat": 0.2}, budget_tokens=2_000, max_epochs=100)
    draft = store.begin("mixture", "m", {}, [tokens])
    assert isinstance(draft, Draft)
    path = draft.scratch("mixture.json")
    path.write_text(json.dumps(plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics).to_json()))
    draft.publish("mixture", {"mixture.json": path})
    draft.commit({}, {})
    for run in ("straight", "interrupted"):
        config = train_config(name=run, data="mixture/m", steps=STEPS, **{"model.vocabulary": 320})
        Path(store_uri, f"spec-{run}.json").write_text(json.dumps(claimed_spec("pretrain", config, store)))
    print(json.dumps({name: source["sidecars"] for name, source in tokens.statistics["sources"].items()}))


def train(store_uri: str, run: str) -> None:
    """A run, as `pipelines.train.worker` does it; `seen-<run>-<step>-<rank>.npz` holds what a step's batches were."""
    import torch.distributed as dist

    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.checkpoint import committed_steps
    from pipelines.train.update.engine import Engine
    from pipelines.train.worker import work
    from tests.waits import wait_until

    storage = ArtifactStore(store_uri).storage
    take_step, first = Engine.step, int(os.environ["FIRST_STEP"])
    steps = iter(range(first, STEPS))

    def watched(engine: Engine, batches: Any, learning_rate: float) -> Any:
        step = next(steps)
        if step == int(os.environ["DIE_IN_STEP"]):
            wait_until(lambda: committed_steps(storage, f"pretrain/{run}"), "the checkpoint that the run goes on from")
            os._exit(1)
        seen = {f"{number} inputs": batch.inputs for number, batch in enumerate(batches)}
        for number, batch in enumerate(batches):
            seen.update({f"{number} {name}": values for name, values in batch.sidecars.items()})
        path = Path(store_uri, f"seen-{run}-{step}-{dist.get_rank()}.npz")
        np.savez(path, **{key: values.numpy() for key, values in seen.items()})
        return take_step(engine, batches, learning_rate)

    Engine.step = watched  # type: ignore[method-assign]
    work(json.loads(Path(store_uri, f"spec-{run}.json").read_text()), print)


if __name__ == "__main__":
    prepare(sys.argv[2]) if sys.argv[1] == "prepare" else train(sys.argv[2], sys.argv[3])
