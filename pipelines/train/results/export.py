"""A checkpoint as a plain Llama-format Hugging Face folder: `transformers` loads it as it is, no remote code.

Enters: slice checkpoint and tokenizer. Leaves: `model.safetensors` (in parts above 5 GB), `config.json`,
`generation_config.json` and the tokenizer's files; the model card is `model_card.py`'s.

MiniCPM's scalings are folded into the weights, which needs the tied output matrix apart from the embedding
(m = d_model / dim_model_base; docs/recipe.md):

    embed_tokens · scale_emb      o_proj, down_proj · scale_depth / √layers      lm_head = embedding / m

Rotary positions are in Llama's half-split layout already. Nothing is believed: `verify` reads the finished folder back
and compares it with the checkpoint, weight by weight and logit by logit, before anything is committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipelines.config import WorkflowConfig, config_class
from pipelines.data.tokens.chat import ASSISTANT_ID, EOS_ID, TEMPLATE, USER_ID
from pipelines.data.tokens.token_shards import open_sources
from pipelines.data.tokens.tokenizer import Encoder, guarded
from pipelines.errors import ArtifactError, StorageError
from pipelines.store.artifacts import Artifact
from pipelines.train.checkpoint import read_weights, whole_model
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import split_projections
from pipelines.train.tasks.task import TOKENIZER

LIMIT = 1e-4  # largest difference of a logit, float32 against float32
SHARD_BYTES = 5_000_000_000
_CHECK_ROWS, _CHECK_TOKENS = 4, 256

Weights = dict[str, Tensor]


@config_class
class ExportConfig(WorkflowConfig):
    """What is exported."""

    parent: str  # e.g. dpo/demo, anneal/demo@step-80
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the stored weights


@dataclass(frozen=True)
class Check:
    """What `verify` found."""

    tokens: int  # compared positions
    largest_difference: float  # of a logit: float32 weights in `transformers` against ours
    stored_difference: float  # the same with the weights as stored: the cost of bfloat16


def fold(weights: Mapping[str, Tensor], config: ModelConfig) -> Weights:
    """MiniCPM's float32 weights as Llama's, scalings folded in."""
    embedding = weights["embed_tokens.weight"]
    folded = {"model.embed_tokens.weight": embedding * config.scale_emb}
    for name, value in split_projections(weights, config).items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            folded[f"model.{name}"] = value * config.residual_scale
        elif name != "embed_tokens.weight":
            folded[f"model.{name}"] = value
    folded["lm_head.weight"] = embedding / config.width_multiplier
    return folded


def llama_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of `config.json`; only keys that transformers 4 and 5, vLLM and llama.cpp all read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "torch_dtype": dtype,
    }


def write_model(run: Run, tokens: Artifact, folder: Path, dtype: Literal["float32", "bfloat16"]) -> Weights:
    """Write the folder without its model card; checksums of the checkpoint are verified first.

    Returns: the folded float32 weights, which `verify` compares with.
    Raises: CheckpointError for a damaged checkpoint; ArtifactError when the tokens hold no tokenizer; StorageError.
    """
    settings = tokenizer_settings(run, tokens)
    config = ModelConfig(**run.checkpoint.state["model"])
    folded = fold(read_weights(run.checkpoint), config)
    stored = {name: value.to(getattr(torch, dtype)).contiguous() for name, value in folded.items()}
    parts = list(split(stored, SHARD_BYTES))
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        try:
            save_file(part, folder / file, metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"cannot write {folder / file}: {error}; nothing was committed: free some space"
            ) from error
        (folder / file).chmod(0o644)  # safetensors writes for the owner alone
        places.update(dict.fromkeys(part, file))
    if len(parts) > 1:
        size = sum(value.nbytes for value in stored.values())
        _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})
    _json(folder / "config.json", llama_config(config, dtype))
    _json(folder / "generation_config.json", {"eos_token_id": EOS_ID, "pad_token_id": EOS_ID, "max_new_tokens": 256})
    (folder / "tokenizer.json").write_text(guarded(tokens.verified(TOKENIZER).read_text("utf-8")), encoding="utf-8")
    settings = {**settings, "chat_template": TEMPLATE, "model_max_length": config.max_positions}
    _json(folder / "tokenizer_config.json", settings)
    return folded


def tokenizer_settings(run: Run, tokens: Artifact) -> dict[str, Any]:
    """The tokenizer's `tokenizer_config.json`. Raises: ArtifactError when the tokens hold no tokenizer."""
    file = "tokenizer/tokenizer_config.json"
    if not {TOKENIZER, file} <= set(tokens.manifest["files"]):
        raise ArtifactError(
            f"{tokens.folder}, which {run} was trained on, holds no tokenizer ({TOKENIZER}, {file}): nobody could use the "
            "exported model; make the tokens with `python -m workflows.tokenize`"
        )
    found: dict[str, Any] = tokens.json(file)
    return found


def split(weights: Weights, limit_bytes: int) -> Iterator[Weights]:
    """Weights in their order, in parts of at most `limit_bytes` (a greater tensor has a part of its own)."""
    part: Weights = {}
    size = 0
    for name, value in weights.items():
        if part and size + value.nbytes > limit_bytes:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    yield part


def verify(folder: Path, run: Run, tokens: Artifact, folded: Weights) -> Check:
    """Read the folder with `transformers` and compare it with the checkpoint.

    Every stored weight equals the folded one rounded to the stored type; logits on held-out tokens agree to `LIMIT` in
    float32; tokenizer and chat template give the ids that training used.

    Raises: ArtifactError on the first that does not hold.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    rows_BT = torch.from_numpy(heldout_rows(tokens, run))
    positions_BT = torch.arange(rows_BT.shape[1]).expand_as(rows_BT)
    with torch.no_grad():
        own = whole_model(run.checkpoint)
        expected = own.logits(own(ModelInput(inputs=rows_BT, positions=positions_BT)))
        del own
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        read = model.state_dict()
        if set(read) != set(folded):
            raise ArtifactError(f"{folder} holds other weights than the checkpoint: {sorted(set(read) ^ set(folded))}")
        for name, value in folded.items():
            if not torch.equal(read[name], value.to(read[name].dtype)):
                raise ArtifactError(f"{name} read back from {folder} is not what was written; nothing was committed")
        stored = (model(rows_BT).logits.float() - expected).abs().max()
        model.float().load_state_dict(folded)
        difference = float((model(rows_BT).logits - expected).abs().max())
    if not difference <= LIMIT:  # also refuses NaN
        raise ArtifactError(
            f"the exported model's logits differ from those of {run} by {difference:.3g} on held-out tokens; accepted is "
            f"{LIMIT:g}: nothing was committed; this is a fault in the export, please report it"
        )
    verify_tokenizer(folder, tokens)
    return Check(rows_BT.numel(), difference, float(stored))


def verify_tokenizer(folder: Path, tokens: Artifact) -> None:
    """Compare the folder's tokenizer and chat template with the room that made the training data.

    Raises: ArtifactError when they give other ids.
    """
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = Encoder(tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)
    text = "Trunkline: 12 + 7 = 19.\n话说天下大势，分久必合。"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": text},
        {"role": "assistant", "content": "19"},
        {"role": "user", "content": "a</s>b <用户> c <AI> d"},  # typed markers are text
    ]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    pairs = {
        "text": (theirs(text, add_special_tokens=False)["input_ids"], ours.encode([text])[0].tolist()),
        "chat": (theirs(rendered, add_special_tokens=False)["input_ids"], ours.encode_prompt(messages).tolist()),
        "markers": (theirs.convert_tokens_to_ids(["</s>", "<用户>", "<AI>"]), [EOS_ID, USER_ID, ASSISTANT_ID]),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            raise ArtifactError(
                f"the exported tokenizer gives other ids for {what}: {found} instead of {expected}; nothing was committed"
            )


def heldout_rows(tokens: Artifact, run: Run) -> NDArray[np.int64]:
    """A few windows of held-out ids, each from another source while there are any: int64 [rows, T].

    Raises: ArtifactError when nothing is held out.
    """
    length = min(_CHECK_TOKENS, run.checkpoint.state["model"]["max_positions"])
    rows: list[NDArray[np.int64]] = []
    for source in open_sources(tokens, "heldout").values():
        ids = source.shard(0).tokens[:length] if source.prefixes else np.zeros(0, np.int64)
        if len(ids) == length:
            rows.append(ids.astype(np.int64))
        elif len(ids):
            rows.append(np.resize(ids.astype(np.int64), length))
        if len(rows) == _CHECK_ROWS:
            break
    if not rows:
        raise ArtifactError(
            f"{tokens.folder} holds nothing out, so the export cannot be checked: hold documents out in the corpus"
        )
    return np.stack(rows)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
