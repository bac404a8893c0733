"""The format `compressed-tensors`: what `workflows.quantize` made, as a folder of its own with a model card.

The files are copied: nothing is rounded twice. The layout is described in `compressed_tensors.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.storage import sha256
from pipelines.train.formats.check import agreement, heldout_rows, refuse_disagreement
from pipelines.train.formats.compressed_tensors import read
from pipelines.train.formats.contract import Check, Description, Format, HowToRun, Source, Stored
from pipelines.train.formats.folder import writing
from pipelines.train.formats.gate import ask_runtime

_MODEL = "model/"  # where the files lie in an artifact of kind quantize

DTYPES = {"packed": Stored(bits=4.5, words="codes as workflows.quantize left them", most_kl=0.5, least_top1=0.6)}


def quantized_of(source: Source) -> Artifact:
    """What is exported. Raises: ConfigError for a checkpoint that was not quantized."""
    if source.quantized is None:
        raise ConfigError(
            f"format=compressed-tensors holds small whole numbers, and parent={source.name} is a checkpoint: quantize "
            f"it first with `python -m workflows.quantize parent={source.name}`, and export quantize/<name>"
        )
    return source.quantized


def files_of(quantized: Artifact) -> dict[str, str]:
    """The files of the model: name in the folder -> name in the artifact."""
    return {name.removeprefix(_MODEL): name for name in quantized.manifest["files"] if name.startswith(_MODEL)}


def write(source: Source, folder: Path, dtype: str) -> None:
    """Copy the files, each compared with its checksum first; `Format.write` says what is raised."""
    quantized = quantized_of(source)
    for name, file in files_of(quantized).items():
        with writing(folder / name):
            shutil.copyfile(quantized.path(file), folder / name)


def verify(source: Source, folder: Path, dtype: str) -> Check:
    """Read the copies back: every file has its checksum, and the model is as near to the full one as it may be.

    Raises: ArtifactError on the first thing that does not hold.
    """
    quantized = quantized_of(source)
    for name, file in files_of(quantized).items():
        if sha256(folder / name) != quantized.manifest["files"][file]["sha256"]:
            raise ArtifactError(f"{name} read back from {folder} is not what was written; nothing was committed")
    delivered, rows_BT, stored = read(folder), heldout_rows(source), DTYPES[dtype]
    kl, top1 = agreement(source, delivered, rows_BT)
    refuse_disagreement(source, stored, kl, top1)
    asked = ask_runtime("transformers", folder, source, stored, delivered)
    return Check(rows_BT.numel(), kl=kl, top1=top1, asked=(asked,))


def describe(source: Source, dtype: str) -> Description:
    """The format in words. Raises: ConfigError for a checkpoint that was not quantized."""
    quantized = quantized_of(source)
    files = files_of(quantized).values()
    told = quantized.statistics
    return Description(
        announcement=f"compressed-tensors, {told['method']}, {told['bits_per_weight']:.3g} bits a linear weight",
        size_bytes=sum(quantized.manifest["files"][file]["bytes"] for file in files if file.endswith(".safetensors")),
        title="compressed-tensors",
        card=f"The linear maps are small whole numbers (`{quantized.folder}`), as they were measured; MiniCPM's "
        "scalings are folded into the weights",
        loads="`transformers` loads this folder with `pip install compressed-tensors` beside it, and unpacks it in "
        "memory; vLLM computes with the packed weights. No remote code is needed.",
        library="transformers",
    )


def run(folder: str) -> tuple[HowToRun, ...]:
    """Python that loads the folder and answers one question, and vLLM's server."""
    text = f'''# pip install transformers compressed-tensors
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
messages = [{{"role": "user", "content": "What is 12 plus 7?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
'''
    return (
        HowToRun(program="transformers", language="python", text=text),
        HowToRun(program="vLLM", language="bash", text=f"vllm serve {folder}\n"),
    )


FORMAT = Format(
    dtypes=DTYPES, write=write, verify=verify, describe=describe, run=run, read=read,
    parents=frozenset({"quantized"}), runtimes=("transformers",),
)  # fmt: skip
