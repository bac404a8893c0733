"""The tokenizer in a GGUF file's metadata: ids, merges, markers and chat template as llama.cpp reads them.

Enters: `tokenizer.json`. Leaves: keys `tokenizer.*`; read back, the same to compare.

llama.cpp has the split that this tokenizer was trained with (`pre = qwen2`) and byte-level BPE (`model = gpt2`). It has
no normalizer. So U+FDD1, which the chat template writes into a marker that somebody typed, stays there as three tokens
of one byte each (`pipelines.data.tokens.chat`): a typed marker is text, and ids are those of training in every
conversation where nobody types a marker. The template is the one of `transformers` without `{% generation %}`, which
only training asks for and llama.cpp does not know, and without the refusal of tools: llama.cpp's own page sends some
with every request. It writes the same text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipelines.data.tokens.chat import EOS_ID, GUARD, SPECIAL_TOKENS, TEMPLATE
from pipelines.data.tokens.tokenizer import QWEN2_SPLIT
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.formats.folder import TOKENIZER

_WITHOUT_TOOLS = TEMPLATE[TEMPLATE.index("{%- set chat = ") :]
GGUF_TEMPLATE = _WITHOUT_TOOLS.replace("{% generation %}", "").replace("{% endgeneration %}", "")
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # gguf.TokenType


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp needs to know of a tokenizer."""

    tokens: list[str]  # by id; bytes in the byte-level alphabet, markers as they are
    types: list[int]
    merges: list[str]  # "left right", in their order

    def add_to(self, writer: Any) -> None:
        """Add it to a `gguf.GGUFWriter`, chat template included."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        # nothing is put before a text; a program that asks which id begins one is told what ends the one before
        writer.add_bos_token_id(EOS_ID)
        writer.add_eos_token_id(EOS_ID)
        writer.add_pad_token_id(EOS_ID)
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(False)
        writer.add_chat_template(GGUF_TEMPLATE)

    def refuse_other(self, metadata: Any, where: str) -> None:
        """Raises: ArtifactError where a file's metadata hold another tokenizer."""
        from gguf import Keys

        known = Keys.Tokenizer
        expected = {
            known.MODEL: "gpt2", known.PRE: "qwen2", known.LIST: self.tokens, known.TOKEN_TYPE: self.types,
            known.MERGES: self.merges, known.BOS_ID: EOS_ID, known.EOS_ID: EOS_ID, known.PAD_ID: EOS_ID,
            known.ADD_BOS: False, known.ADD_EOS: False, known.CHAT_TEMPLATE: GGUF_TEMPLATE,
        }  # fmt: skip
        for key, value in expected.items():
            if metadata.get(key) != value:
                raise ArtifactError(
                    f"{where} has another tokenizer than training: {key} read back is not what was written; nothing "
                    "was committed"
                )


def vocabulary_of(tokens: Artifact, size: int) -> Vocabulary:
    """The tokenizer of a tokens artifact. Args: size, ids that the model has.

    Raises: ConfigError for a tokenizer that llama.cpp would not split alike, or of more ids than the model has.
    """
    made = json.loads(tokens.path(TOKENIZER).read_text(encoding="utf-8"))
    if reason := _unlike(made):
        raise ConfigError(
            f"{tokens.folder} has a tokenizer that llama.cpp cannot read as it is ({reason}); format=gguf takes those "
            "of `python -m workflows.tokenize`: byte-level BPE with the split of Qwen2"
        )
    by_id = {int(id_): token for token, id_ in made["model"]["vocab"].items()}
    by_id |= {int(added["id"]): added["content"] for added in made["added_tokens"]}
    if max(by_id) >= size:
        raise ConfigError(
            f"{tokens.folder} has ids up to {max(by_id):,} and the model {size:,} of them: it was trained on other "
            "tokens"
        )
    markers = {int(added["id"]) for added in made["added_tokens"]}
    ids = range(size)
    return Vocabulary(
        # an id of the model that the tokenizer never gives has a name all the same
        [by_id.get(id_, f"[PAD{id_}]") for id_ in ids],
        [_CONTROL if id_ in markers else _NORMAL if id_ in by_id else _UNUSED for id_ in ids],
        [merge if isinstance(merge, str) else " ".join(merge) for merge in made["model"]["merges"]],
    )


def _unlike(made: dict[str, Any]) -> str:
    """Why llama.cpp would give other ids than `tokenizers`, or ""."""
    model, added = made["model"], [token["content"] for token in made["added_tokens"]]
    if model["type"] != "BPE" or model.get("byte_fallback") or model.get("ignore_merges"):
        return f"its model is {model['type']}, not plain BPE"
    if sorted(added) != sorted(SPECIAL_TOKENS):
        return f"its markers are {added}"
    split, *after = (made.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    bytes_alone = [(step.get("type"), step.get("add_prefix_space"), step.get("use_regex")) for step in after]
    if split.get("pattern") != {"Regex": QWEN2_SPLIT} or bytes_alone != [("ByteLevel", False, False)]:
        return "it splits text in another way"
    rules = made.get("normalizer") or {}
    rules = rules.get("normalizers", [rules] if rules else [])
    if [rule for rule in rules if rule.get("pattern") != {"String": GUARD}]:
        return "it normalises text"
    return ""
