"""The MLC format: a Llama folder, and beside it what MLC-LLM needs to make a phone's program of it.

Enters and leaves what `llama.py` does, plus `mlc-chat-config.json` (the model, its type of numbers, the chat format)
and a `mlc-package-config.json` for Android and one for iOS. MLC-LLM reads the folder, makes its own small numbers of
the weights, and compiles; the commands are in `run`. Its `gen_config` is left out on purpose: it knows only the chat
formats of its own list, and would write one of them over ours.

What is checked: the Llama folder as that of `llama.py`, and the chat format by what MLC-LLM's `Conversation.as_prompt`
does with it. MLC-LLM itself is asked nothing: it is on no package index (docs/design/results.md), so its 4-bit numbers
are not measured here.

Two limits of its chat format, which has no rules of its own: a system message comes before `<用户>`, where training had
it behind; and a marker that somebody types becomes a marker.

Sources: MLC-LLM's documentation (compilation: convert weights, compile, package), and the fields of its classes
`MLCChatConfig`, `Conversation` and `LlamaConfig`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.tokens.chat import ASSISTANT, EOS, EOS_ID, SPECIAL_TOKENS, USER, Message
from pipelines.errors import ArtifactError
from pipelines.train.formats import llama, questions
from pipelines.train.formats.contract import Asked, Check, Description, Format, HowToRun, Source, Stored
from pipelines.train.formats.folder import write_json
from pipelines.train.formats.gate import encoder_of, load_tokenizer
from pipelines.train.network.architecture import ModelConfig, parameter_counts

CHAT = "mlc-chat-config.json"
DEVICES = {"android": "mlc-package-config.android.json", "iphone": "mlc-package-config.iphone.json"}
_PHONE_CONTEXT, _CHUNK = 768, 256  # positions on a phone, where the cache of keys and values is most of the memory

# what MLC-LLM makes of the weights: bits of a weight, groups of 32, and the type that it computes in
DTYPES = {
    "q4f16_1": Stored(bits=16, words="float16, of which MLC-LLM makes 4 bits in groups of 32"),
    "q0f16": Stored(bits=16, words="float16, kept as they are"),
    "q4f32_1": Stored(bits=32, words="float32, of which MLC-LLM makes 4 bits in groups of 32"),
    "q0f32": Stored(bits=32, words="float32, kept as they are"),
}
_BITS = {"q4f16_1": 4.5, "q0f16": 16, "q4f32_1": 5, "q0f32": 32}  # of a weight once MLC-LLM has made its own


def floats(dtype: str) -> str:
    """The type of the weights in the folder."""
    return "float16" if "f16" in dtype else "float32"


def conversation() -> dict[str, Any]:
    """Our chat format in MLC-LLM's words."""
    return {
        "name": "trunkline",
        "system_template": "{system_message}",
        "system_message": "",
        "system_prefix_token_ids": None,
        "add_role_after_system_message": True,
        "roles": {"user": USER, "assistant": ASSISTANT},
        "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"},
        "messages": [],
        "seps": ["", EOS],
        "role_content_sep": "",
        "role_empty_sep": "",
        "stop_str": [EOS],
        "stop_token_ids": [EOS_ID],
        "function_string": "",
        "use_function_calling": False,
    }


def chat_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of `mlc-chat-config.json`."""
    chunk = min(model.max_positions, 2048)
    shared = {
        "vocab_size": model.vocabulary,
        "context_window_size": model.max_positions,
        "prefill_chunk_size": chunk,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
    }
    return {
        "version": "0.1.0",
        "model_type": "llama",
        "quantization": dtype,
        "model_config": {
            **shared,
            "hidden_size": model.d_model,
            "intermediate_size": model.d_ff,
            "num_attention_heads": model.heads,
            "num_hidden_layers": model.layers,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.d_head,
            "rms_norm_eps": model.norm_eps,
            "tie_word_embeddings": False,
            "position_embedding_base": model.rope_base,
            "rope_scaling": None,
            "max_batch_size": 1,
        },
        **shared,
        "sliding_window_size": -1,
        "attention_sink_size": -1,
        "active_vocab_size": model.vocabulary,
        "temperature": 0.7,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "top_p": 0.9,
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json"],
        "tokenizer_info": {
            "token_postproc_method": "byte_level",
            "prepend_space_in_encode": False,
            "strip_space_in_decode": False,
        },
        "conv_template": conversation(),
        "pad_token_id": EOS_ID,
        "bos_token_id": EOS_ID,  # never written: no template has it; null would become MLC-LLM's default, id 1
        "eos_token_id": EOS_ID,
    }


def package_config(model: ModelConfig, dtype: str, device: str, name: str) -> dict[str, Any]:
    """The content of a `mlc-package-config.json`. Args: device, android or iphone; name, of the converted folder."""
    context = min(model.max_positions, _PHONE_CONTEXT)
    counts, number = parameter_counts(model), 4 if dtype.endswith(("f32_1", "f32")) else 2
    cache = 2 * model.layers * model.kv_heads * model.d_head * number * context
    chunk = min(context, _CHUNK)
    weights = round((counts["total"] + counts["embedding"]) * _BITS[dtype] / 8)
    logits = 4 * chunk * model.vocabulary
    return {
        "device": device,
        "model_list": [
            {
                "model": f"dist/{name}",
                "model_id": name,
                "estimated_vram_bytes": weights + cache + logits,
                "bundle_weight": True,
                "overrides": {"context_window_size": context, "prefill_chunk_size": chunk},
            }
        ],
    }


def model_id(dtype: str) -> str:
    """What the converted folder and the app's entry are called."""
    return f"trunkline-{dtype}-MLC"


def write(source: Source, folder: Path, dtype: str) -> None:
    """Write the folder; `Format.write` says what is raised."""
    llama.write(source, folder, floats(dtype))
    write_json(folder / CHAT, chat_config(source.model, dtype))
    for device, file in DEVICES.items():
        write_json(folder / file, package_config(source.model, dtype, device, model_id(dtype)))


def rendered(template: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """The prompt that MLC-LLM makes of a conversation that ends with a question, by its `Conversation.as_prompt`."""
    system = "".join(message["content"] for message in messages if message["role"] == "system")
    text: str = template["system_template"].replace("{system_message}", system)
    after = dict(zip(("user", "assistant"), template["seps"], strict=True))
    for message in messages:
        role = message["role"]
        if role in after:
            content = template["role_templates"][role].replace(f"{{{role}_message}}", message["content"])
            text += template["roles"][role] + template["role_content_sep"] + content + after[role]
    return text + str(template["roles"]["assistant"]) + str(template["role_empty_sep"])


def verify(source: Source, folder: Path, dtype: str) -> Check:
    """Compare the Llama folder with the checkpoint as `llama.verify` does, and MLC's chat format with that of training.

    Raises: ArtifactError on the first that does not hold.
    """
    check = llama.verify(source, folder, floats(dtype))
    said = json.loads((folder / CHAT).read_text("utf-8"))
    if said != json.loads(json.dumps(chat_config(source.model, dtype))):
        raise ArtifactError(f"{folder / CHAT} read back is not what was written; nothing was committed")
    asked = Asked(
        "MLC-LLM",
        not_asked="it is on no package index; install it by https://llm.mlc.ai/docs/install/mlc_llm.html",
        conversations=compare_conversations(source, folder, said["conv_template"]),
        notes=("its chat format was rendered as its published code does",),
    )
    return Check(**{**vars(check), "asked": (*check.asked, asked)})


def compare_conversations(source: Source, folder: Path, template: Mapping[str, Any]) -> int:
    """Render conversations by MLC's chat format, and compare their ids with those of training.

    Left out: what it cannot say, which is system messages and typed markers.

    Returns: how many were compared. Raises: ArtifactError on the first that differs.
    """
    encoder, theirs = encoder_of(source), load_tokenizer(folder)
    compared = 0
    for messages in questions.conversations():
        texts = [message["content"] for message in messages]
        if any(message["role"] == "system" for message in messages) or any(
            marker in text for marker in SPECIAL_TOKENS for text in texts
        ):
            continue
        ids = theirs(rendered(template, messages), add_special_tokens=False)["input_ids"]
        if ids != encoder.encode_prompt(messages).tolist():
            raise ArtifactError(
                f"MLC's chat format gives other ids than training for the conversation {texts}; nothing was committed"
            )
        compared += 1
    return compared


def describe(source: Source, dtype: str) -> Description:
    """The format in words."""
    made = llama.describe(source, floats(dtype))
    return Description(
        announcement=f"Llama for MLC-LLM, weights in {floats(dtype)}",
        size_bytes=made.size_bytes,
        title="MLC",
        card=f"MiniCPM's scalings are folded into the weights, which lie here in {floats(dtype)}; MLC-LLM makes "
        f"{dtype} of them on the machine that compiles",
        loads="MLC-LLM compiles this folder for Android, iOS and browsers; `transformers` loads it too. MLC-LLM was "
        "not installed where this was made, so nothing was compiled. Its chat format puts a system message before the "
        "first question's marker, where training had it behind, and reads typed markers as markers: put instructions "
        "into the question, and take markers out of what is not your own.",
        library="mlc-llm",
    )


def run(folder: str) -> tuple[HowToRun, ...]:
    """The Python of `llama.run`, and the commands for phones."""
    phones = {"android": ("MLC-LLM (Android)", _ANDROID), "iphone": ("MLC-LLM (iPhone, iPad)", _IOS)}
    return (
        *llama.run(folder)[:2],
        *(
            HowToRun(
                program=program,
                language="bash",
                text=_COMMANDS.format(
                    folder=shlex.quote(folder),
                    app=f"{'ios' if device == 'iphone' else device}/MLCChat",
                    device=device,
                    chat=CHAT,
                    package=DEVICES[device],
                )
                + rest,
            )
            for device, (program, rest) in phones.items()
        ),
    )


_COMMANDS = """# once: install MLC-LLM (https://llm.mlc.ai/docs/install/mlc_llm.html) and get its source
git clone --recursive https://github.com/mlc-ai/mlc-llm.git && export MLC_LLM_SOURCE_DIR=$PWD/mlc-llm
F=$(realpath {folder})
Q=$(sed -n 's/.*"quantization": "\\(.*\\)".*/\\1/p' $F/{chat})
cd $MLC_LLM_SOURCE_DIR/{app}
mlc_llm convert_weight $F --quantization $Q -o dist/trunkline-$Q-MLC
# in place of `mlc_llm gen_config $F --quantization $Q --conv-template …`, whose list does not have this chat format
cp $F/{chat} $F/tokenizer.json $F/tokenizer_config.json dist/trunkline-$Q-MLC/
# `package` compiles by itself; to compile alone:
#   mlc_llm compile dist/trunkline-$Q-MLC/{chat} --device {device} -o dist/trunkline-$Q-{device}.tar
cp $F/{package} mlc-package-config.json && mlc_llm package
"""
_ANDROID = """./gradlew assembleDebug
python bundle_weight.py --apk-path app/build/outputs/apk/debug/app-debug.apk
"""
_IOS = """open MLCChat.xcodeproj   # in Xcode: choose a device, run
"""

FORMAT = Format(
    dtypes=DTYPES, write=write, verify=verify, describe=describe, run=run, read=llama.read, runtimes=("transformers",)
)
