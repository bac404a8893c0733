"""One flipped bit anywhere in a store: each command either refuses, naming the file, or gives the very result it gave
before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.cluster.cluster import serial_map
from pipelines.config import TrackingConfig, config_class, parse
from pipelines.data.stream.asked_mixture import AskedMixture
from pipelines.data.tokens.tokenizer import TokenizerConfig
from pipelines.errors import TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.average import AverageConfig
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.results.evaluate import EvaluateConfig, Tasks
from tests.unit.test_checkpoint import flip
from tests.untrained import commit_run, commit_tokens
from workflows import average, checkpoints, evaluate, export, mixture, tokenize
from workflows.running.session import Session

MODEL = ModelConfig(
    layers=1, d_model=16, d_ff=32, heads=2, kv_heads=1, vocabulary=320, max_positions=64, dim_model_base=16
)
COMMON: dict[str, Any] = {"name": "x", "tracking": TrackingConfig(enabled=False)}
PROMPTS = [{"text": "Once upon"}, {"text": "1 + 1?", "chat": True}]
TASKS = {"text": {}, "preferences": {}, "completions": {"prompts": PROMPTS, "max_new_tokens": 3}}


@config_class
class Asked:
    tasks: Tasks


# command -> its module and config; what it leaves; the kinds of files that it reads
COMMANDS: dict[str, tuple[Any, Any, str, tuple[str, ...]]] = {
    "tokenize": (
        tokenize,
        tokenize.TokenizeConfig(
            **COMMON, data="corpus/c", tokenizer=TokenizerConfig(vocabulary_size=320, sample_bytes=10_000_000)
        ),
        "tokens/x",
        ("corpus/c/manifest.json", "corpus/c/**/*.parquet"),
    ),
    "mixture": (
        mixture,
        mixture.MixtureConfig(
            **COMMON,
            tokens="tokens/t",
            mixture=AskedMixture(weights={"prose": 1.0}, budget_tokens=2000, max_epochs=100),
        ),
        "mixture/x",
        ("tokens/t/manifest.json",),
    ),
    "evaluate": (
        evaluate,
        EvaluateConfig(**COMMON, parent="pretrain/a", tasks=parse(Asked, {"tasks": TASKS}).tasks),
        "evaluate/x",
        ("pretrain/a/manifest.json", "pretrain/a/checkpoints/*6/*", "tokens/t/tokenizer/*", "tokens/t/heldout/**/*.*"),
    ),
    "average": (average, AverageConfig(**COMMON, parent="pretrain/a"), "average/x", ("pretrain/a/checkpoints/*/*",)),
    "export": (
        export,
        export.ExportConfig(**COMMON, parent="pretrain/a"),
        "export/x",
        ("pretrain/a/checkpoints/*6/*", "tokens/t/tokenizer/*", "corpus/c/manifest.json"),
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path_factory.mktemp("flips") / "store"))
    texts = {
        "prose": [f"Once upon a time there were {i} models, and they were small." for i in range(40)],
        "zh": ["话说天下大势，分久必合。"] * 30,
    }
    tokens = commit_tokens(store, texts, [(f"{i} + 1?", str(i + 1)) for i in range(9)], [("2 + 2?", "4", "fish")] * 5)
    weights = {name: value.detach() for name, value in Transformer(MODEL).initialise(3).named_parameters()}
    commit_run(store, "pretrain/a", MODEL, tokens, None, weights, steps=(3, 6))
    return store


def result(store: ArtifactStore, command: str) -> Any:
    """What the command leaves, without times: files by checksum, statistics, and the numbers of an evaluation."""
    module, config, folder, _ = COMMANDS[command]
    torch.manual_seed(0)
    try:
        with Session(replace(config, store=store.uri)) as session:
            made = module.run(session.config, session)
        files = {name: entry["sha256"] for name, entry in made.manifest["files"].items() if name != "results.json"}
        checkpoint = [entry.read_bytes() for entry in (store.storage.root / folder).glob("checkpoints/*/*.safetensors")]  # type: ignore[attr-defined]
        numbers = made.json("results.json") if "results.json" in made.manifest["files"] else {}
        files.pop("README.md", None)  # names the day
        return files, made.statistics, checkpoint, {k: v for k, v in numbers.items() if k != "seconds"}
    finally:
        store.storage.delete(folder)


def survive(store: ArtifactStore, command: str, flips: int, seed: int, act: Callable[[], Any]) -> tuple[int, int]:
    """Flip bits of each kind of file that the command reads. Returns: how often it refused, how often it gave the
    same.
    """
    root, rng, before = Path(store.uri), random.Random(f"{command} {seed}"), act()
    refused = same = 0
    for pattern in COMMANDS[command][3]:
        files = sorted(path for path in root.glob(pattern) if path.is_file() and path.stat().st_size)
        assert files, pattern
        for path in rng.sample(files, min(flips, len(files))) if flips < len(files) else files:
            for bit in rng.sample(range(8 * path.stat().st_size), max(1, flips // len(files))):
                flip(path, bit)
                where = f"{path.relative_to(root)}, bit {bit}"
                said = ""
                try:
                    assert act() == before, where
                except TrunklineError as error:
                    said = str(error)
                finally:
                    flip(path, bit)
                named = path.name in said and (str(path.parent.relative_to(root)) in said or "@step-" in said)
                assert named or not said, f"{where}: {said}"
                refused, same = refused + bool(said), same + (not said)
    return refused, same


@pytest.mark.parametrize(
    "command", ["tokenize", "mixture", "evaluate", "average", pytest.param("export", marks=pytest.mark.campaign)]
)
@pytest.mark.parametrize("flips", [1, pytest.param(30, marks=pytest.mark.campaign)])
def test_a_flipped_bit_is_refused_by_name_or_changes_nothing(
    store: ArtifactStore, command: str, flips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "map_shards", property(lambda self: serial_map))
    refused, same = survive(store, command, flips, 0, lambda: result(store, command))
    print(f"{command}: refused {refused}, same result {same}")
    assert refused


def test_verify_names_every_flipped_bit_of_a_checkpoint(store: ArtifactStore) -> None:
    config = checkpoints.CheckpointsConfig(**COMMON, store=store.uri, action="verify", run="pretrain/a")
    rng, damaged = random.Random(1), 0
    for path in sorted(Path(store.uri).glob("pretrain/a/checkpoints/*/*")):
        for bit in rng.sample(range(8 * path.stat().st_size), 5):
            flip(path, bit)
            with (
                pytest.raises(TrunklineError, match=f"damaged at step {int(path.parent.name[5:])};"),
                Session(config) as session,
            ):
                checkpoints.run(config, session)
            flip(path, bit)
            damaged += 1
    assert damaged == 20
