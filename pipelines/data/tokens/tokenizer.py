"""Byte-level BPE: trained with `tokenizers`, encoded with gigatoken, checked one against the other.

Enters: a sample of the corpus. Leaves: `tokenizer.json` and `tokenizer_config.json` that `transformers` reads as they
are, and an `Encoder` from texts to ids.

Why byte-level BPE with the Qwen2 split, and not SentencePiece as MiniCPM: no text is out of vocabulary, digits stay
single (arithmetic), and the one file is read unchanged by `transformers`, by llama.cpp (pre-tokenizer `qwen2`) and by
gigatoken, which encodes about 50 times faster than `tokenizers` on one core. Here nothing is normalised: the corpus was
before, and ids must spell exactly the bytes that came in. The file for others has one rule, see `guarded`.

Text never becomes a marker: `</s>` inside a document is encoded as the characters < / s >. `tokenizers` does so with
`encode_special_tokens`; gigatoken is given the vocabulary without its list of added tokens. No merge can build a
marker either, because the split puts `</`, `s` and `>` into different pieces.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipelines.config import Amount, Count, config_class
from pipelines.data.tokens.chat import (
    ASSISTANT_ID,
    EOS,
    EOS_ID,
    GUARD,
    SPECIAL_TOKENS,
    TEMPLATE,
    USER_ID,
    Message,
    prompt,
)
from pipelines.data.tokens.codepoints import unsettled
from pipelines.errors import ConfigError, DataError

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHECKED_CHARACTERS = 1000  # of one text of every batch, by the slow path: some 0.5 ms of the 20 ms that 3 MB take
# bytes per token on 300,000 held-out documents of MiniCPM's tokenizers, by their number of ids (arXiv 2404.06395)
MINICPM_BYTES_PER_TOKEN = {
    122_753: {"zh": 3.73, "en": 4.14, "code": 2.81, "papers": 2.93, "average": 3.40},
    73_440: {"zh": 3.56, "en": 4.02, "code": 2.76, "papers": 2.88, "average": 3.31},
}
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)  # every byte is a token of its own

# what encoders have been seen to disagree on: markers in text, contractions, digits, space before and after line ends,
# combining marks, emoji with joiners, CJK with Latin, control characters, no-break spaces, very long words, nothing
PROBES = (
    "", " ", "\n", "\r\n\r\n", "\t \t", "   leading", "trailing   ", "a  b   c", "x \n  y\n\n\n z", "a\r\nb\rc",
    "</s>", "<用户>你好<AI>hi</s>", "a</s>b <AI> c<用户>", "< /s>", "I'LL we're they'Ve it's 'S 'tis", "ſ's K'S",
    "12345 3.14159 1,000,000", "１２３ ٣٤٥ Ⅻ ½", "e\u0301 é ñ n\u0303 \u0301alone", "👩‍👩‍👧‍👦 👍🏽 🇨🇳 ☃\ufe0f",
    "第一回 宴桃園豪傑三結義，斬黃巾英雄首立功。", "混合 text 中文and英文123，标点！？", "日本語とカタカナ ｶﾅ 한국어",
    "def f(x):\n    return x**2  # 注释\n\n\tif a!=b: pass\n", "https://example.org/a?b=c&d=%20#e",
    "\x00\x01\x7f\x85\x1c", "\u00a0no\u2003break\u3000space\u2028line", "\ufeffbom \u200bzero\u200dwidth",
    "$$\\frac{a}{b}$$ != <= -> :: ...!!!???", "Ελληνικά Кириллица עברית العربية हिन्दी ไทย",
    "𠀀𪚥 \U000e0001 \uffff \ufdd0", "a" * 3000, "あ" * 1000, "1" * 500, " " * 700, "=" * 300 + "\n" * 50,
    "ab" * 400 + " " + "你好" * 300, "\U0001f600" * 100,
)  # fmt: skip


@config_class
class TokenizerConfig:
    """How the tokenizer is made."""

    reuse: str | None = None  # tokens/<name>: take that tokenizer instead of training one
    # markers and the 256 bytes included; auto: by how much text there is (`vocabulary.py`)
    vocabulary_size: Count | Literal["auto"] = 4096
    sample_bytes: Count = 20_000_000  # text to train on, over all sources
    balance: Literal["source", "language", "size"] = "source"  # equal bytes per source or language, or as they come
    shares: dict[str, Amount] | None = None  # source -> relative share of the sample; replaces `balance`
    mixture: str | None = None  # conf/mixture/<name>.yaml: its weights as `shares`
    min_frequency: Count = 2  # a pair must occur so often to be merged

    def __post_init__(self) -> None:
        if self.vocabulary_size != "auto" and self.vocabulary_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"tokenizer.vocabulary_size is {self.vocabulary_size}; expected at least {SMALLEST_VOCABULARY} "
                "(256 bytes and the markers)"
            )
        if self.shares is not None and self.mixture is not None:
            raise ConfigError(
                f"tokenizer.shares and tokenizer.mixture={self.mixture} both say how the sample is drawn: give one of "
                "them"
            )
        if self.sample_bytes <= 0:
            raise ConfigError(f"tokenizer.sample_bytes is {self.sample_bytes}; expected a positive number of bytes")

    @property
    def ids(self) -> int:
        """`vocabulary_size`, once it is a number."""
        assert isinstance(self.vocabulary_size, int)
        return self.vocabulary_size


@dataclass
class LongRuns:
    """Runs of text without a break (letters, spaces, signs) that are cut before the tokenizer is trained on them.

    The trainer takes time with the square of a piece: 250,000 letters in a row cost 27 s, in pieces of 1,000 only 0.2.
    Ordinary text has no such run, and passes as it is. What is encoded later is never cut.
    """

    texts: int = 0  # that hold one
    runs: int = 0
    longest_characters: int = 0

    def cut(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts, those with a long run in several parts that begin within it."""
        for text in texts:
            pieces = _SPLIT.pre_tokenize_str(text) if _SUSPECT.search(text) else []
            long = [(start, stop) for _, (start, stop) in pieces if stop - start > LONGEST_PIECE]
            begin = 0
            for start, stop in long:
                for end in range(start + LONGEST_PIECE, stop, LONGEST_PIECE):
                    yield text[begin:end]
                    begin = end
                self.longest_characters = max(self.longest_characters, stop - start)
            self.texts += bool(long)
            self.runs += len(long)
            yield text[begin:]

    def describe(self) -> str:
        """A sentence, or "" when nothing was cut."""
        if not self.runs:
            return ""
        return (
            f"{self.runs:,} runs of more than {LONGEST_PIECE:,} characters without a break, in {self.texts:,} texts "
            f"of the sample (the longest {self.longest_characters:,}), were cut into pieces of {LONGEST_PIECE:,}"
        )


LONGEST_PIECE = (
    1000  # characters; the longest word of a dictionary has 189,819 in jest and 45 in earnest, a line of signs 200
)
_SPLIT: Any = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
# what a long piece has, in whatever version of Unicode: no space, digit or ASCII sign among letters, or nothing but
# spaces, or signs; looked for where such a run begins alone, which is linear (a hundred times faster on Chinese)
_SUSPECT = re.compile(
    "|".join(f"(?<!{kind}){kind}{{{LONGEST_PIECE}}}" for kind in (r"[^\s0-9!-/:-@\[-`{-~]", r"\s", r"[^\sA-Za-z0-9]"))
)


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, runs: LongRuns | None = None) -> str:
    """Train on `texts`; the same texts give the same tokenizer, in any order.

    Args: runs, counts the long runs that were cut.
    Returns: the content of `tokenizer.json`.
    Raises: DataError when there is nothing to train on.
    """
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            _SPLIT,
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.ids,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((LongRuns() if runs is None else runs).cut(texts), trainer)
    if tokenizer.get_vocab_size() == SMALLEST_VOCABULARY:
        raise DataError("the tokenizer's sample is empty or has no repeated pair of bytes: check the corpus")
    markers = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    if markers != [EOS_ID, USER_ID, ASSISTANT_ID]:
        raise DataError(f"the markers {SPECIAL_TOKENS} got ids {markers}; expected 0, 1, 2")
    return guarded(str(tokenizer.to_str(pretty=True)))


def guarded(tokenizer_json: str) -> str:
    """The same tokenizer for others, which takes `GUARD` out of text after it has looked for markers: see `chat`."""
    tokenizer: Any = Tokenizer.from_str(tokenizer_json)
    if GUARD in str(tokenizer.normalizer):
        return tokenizer_json
    rule = normalizers.Replace(GUARD, "")
    tokenizer.normalizer = rule if tokenizer.normalizer is None else normalizers.Sequence([rule, tokenizer.normalizer])
    return str(tokenizer.to_str(pretty=True))


def tokenizer_files(tokenizer_json: str) -> dict[str, bytes]:
    """The files of a `transformers` fast tokenizer, by name: chat template, end and padding token included."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": EOS,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "model_max_length": 1_000_000_000,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    return {
        "tokenizer.json": tokenizer_json.encode(),
        "tokenizer_config.json": (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode(),
    }


class Encoder:
    """Texts to ids and back; never yields a marker for a piece of text.

    gigatoken encodes as long as it agrees with `tokenizers`: on `PROBES` before anything is encoded, and on the
    beginning of one text of every batch. Texts with characters that their Unicode tables may class differently never go
    to it (`codepoints`). At the first disagreement `tokenizers` takes over, that batch included.

    Args:
        tokenizer_json: content of `tokenizer.json`.
        fast: whether to try gigatoken.

    Attributes:
        backend: which library encodes now.
        reason: why gigatoken is not used, or "".
        vocabulary_size: number of ids.
    """

    def __init__(self, tokenizer_json: str, fast: bool = True):
        tokenizer_json = json.dumps({**json.loads(tokenizer_json), "normalizer": None})  # text comes in as it is
        self._slow: Any = Tokenizer.from_str(tokenizer_json)
        self._slow.encode_special_tokens = True
        self.vocabulary_size = int(self._slow.get_vocab_size())
        self._fast: Any = None
        self.reason = "not asked for"
        if fast:
            self._fast, self.reason = _load_gigatoken(tokenizer_json, self._encode_slowly)

    @property
    def backend(self) -> Literal["gigatoken", "tokenizers"]:
        return "gigatoken" if self._fast is not None else "tokenizers"

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode texts, without markers.

        Returns: ids of all texts one after another [ids], and the number of each text's ids [texts].
        """
        if self._fast is not None and texts:
            probe = texts[len(texts) // 2][:_CHECKED_CHARACTERS]
            encoded = self._encode_settled([probe, *texts])
            if np.array_equal(encoded[0][: encoded[1][0]], self._encode_slowly([probe])[0]):
                return encoded[0][encoded[1][0] :], encoded[1][1:]
            self._fast, self.reason = None, f"gigatoken disagrees with tokenizers on {probe[:40]!r}"
        return self._encode_slowly(texts)

    def _encode_settled(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """gigatoken's ids, except of texts with unassigned characters."""
        slow = unsettled(texts)
        if not slow:
            return _encode_fast(self._fast, texts)
        chosen = set(slow)
        ids, lengths = _encode_fast(self._fast, ["" if i in chosen else text for i, text in enumerate(texts)])
        pieces = np.split(ids, np.cumsum(lengths)[:-1])
        for i in slow:
            pieces[i] = self._encode_slowly([texts[i]])[0]
        return np.concatenate(pieces), np.array([len(piece) for piece in pieces], np.int64)

    def encode_prompt(self, messages: Sequence[Message]) -> NDArray[np.uint32]:
        """The ids after which a model answers the last question: `<用户>…<AI>`."""
        pieces: list[NDArray[np.uint32]] = []
        for question, answer in prompt(messages):
            pieces += [_ids(USER_ID), self.encode([question])[0], _ids(ASSISTANT_ID)]
            if answer is not None:
                pieces += [self.encode([answer])[0], _ids(EOS_ID)]
        return np.concatenate(pieces)

    def decode(self, ids: Sequence[int] | NDArray[Any], skip_markers: bool = True) -> str:
        """The text that ids spell; bytes that are no UTF-8 become U+FFFD."""
        return str(self._slow.decode([int(i) for i in ids], skip_special_tokens=skip_markers))

    def _encode_slowly(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        encoded = [encoding.ids for encoding in self._slow.encode_batch_fast(list(texts), add_special_tokens=False)]
        ids = np.fromiter((i for row in encoded for i in row), np.uint32)
        return ids, np.array([len(row) for row in encoded], np.int64)


@functools.lru_cache(maxsize=2)
def load_encoder(tokenizer_json: str) -> Encoder:
    """The `Encoder` of a tokenizer, kept for the next shard that the same worker process encodes."""
    return Encoder(tokenizer_json)


def _load_gigatoken(tokenizer_json: str, slow: Any) -> tuple[Any, str]:
    try:
        import gigatoken

        fast = gigatoken.Tokenizer.from_json(json.dumps({**json.loads(tokenizer_json), "added_tokens": []}))
        expected, encoded = slow(PROBES), _encode_fast(fast, PROBES)
    except Exception as error:  # a library that cannot load this tokenizer says so in many ways
        return None, f"gigatoken failed: {type(error).__name__}: {error}"
    if np.array_equal(expected[0], encoded[0]) and np.array_equal(expected[1], encoded[1]):
        return fast, ""
    wrong = [probe for probe in PROBES if not np.array_equal(slow([probe])[0], _encode_fast(fast, [probe])[0])]
    return None, f"gigatoken disagrees with tokenizers on {[probe[:40] for probe in wrong]}"


def _encode_fast(fast: Any, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    layout = fast.encode_batch(list(texts), parallel=False).layout  # a worker owns one core; same ids either way
    offsets = np.asarray(layout.offsets.data, np.int64)
    return np.asarray(layout.content.data[offsets[0] : offsets[-1]], np.uint32), np.diff(offsets)


def _ids(marker: int) -> NDArray[np.uint32]:
    return np.array([marker], np.uint32)
