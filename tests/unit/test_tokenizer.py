"""The tokenizer: safe, lossless, reproducible, and the same in `tokenizers`, gigatoken and `transformers`."""

from __future__ import annotations

import json
import random
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.sources.generators import GENERATORS
from pipelines.data.tokens.chat import SPECIAL_TOKENS, assemble, exchanges
from pipelines.data.tokens.codepoints import unsettled
from pipelines.data.tokens.tokenizer import (
    _SPLIT,
    LONGEST_PIECE,
    PROBES,
    Encoder,
    LongRuns,
    TokenizerConfig,
    _encode_fast,
    guarded,
    tokenizer_files,
    train_tokenizer,
)
from pipelines.errors import ConfigError, DataError

TEXTS = [
    "The quick brown fox jumps over the lazy dog. 12345 + 678 = 13023\n",
    "def add(a, b):\n    return a + b\n",
    "话说天下大势，分久必合，合久必分。",
    "a </s> b <用户> c <AI> d </s></s></s>",
] * 50
CONFIG = TokenizerConfig(vocabulary_size=340)


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, CONFIG)


@pytest.fixture(scope="module")
def encoder(trained):
    return Encoder(trained)


def test_markers_come_first_and_no_merge_builds_one(trained):
    model = json.loads(trained)["model"]
    assert len(model["vocab"]) == 340
    assert [model["vocab"][token] for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert not {"".join(pair) for pair in model["merges"]} & set(SPECIAL_TOKENS)


def test_training_is_reproducible_in_any_order(trained):
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert train_tokenizer(shuffled, CONFIG) == trained


def test_ordinary_text_is_trained_on_as_it_is():
    texts = [
        *TEXTS,
        "".join(TEXTS),
        "=" * 200 + "\n" * 30 + " " * 120,
        "x" * 1000,
        "一" * 999,
        "1" * 5000,
        "第一回，" * 900,
    ]
    runs = LongRuns()
    assert list(runs.cut(texts)) == texts
    assert (runs.runs, runs.describe()) == (0, "")


@pytest.mark.parametrize(
    "run",
    ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3500)) if i else "a" * 3500 for i in range(2)]
    + [
        " " * 3500,
        "\n" * 3500,
        "\t \u3000" * 1200,
        "=" * 3500,
        "-*" * 1750,
        "水" * 3500,
        "水木金" * 1200,
        "あいう" * 1200,
    ]
    + [
        "é" * 3500,
        "\u0301" * 3500,
        "😀" * 3500,
        "。" * 3500,
        "\U000323b0" * 3500,
        "_" * 3500,
        "АбВ" * 1200,
    ],
)
def test_a_run_without_a_break_is_cut_and_counted(run):
    text = f"Once 12 {run} upon a time {run}"
    runs = LongRuns()
    parts = list(runs.cut(["before", text, "after"]))
    assert "".join(parts) == "before" + text + "after"
    pieces = [piece for part in parts for piece, _ in _SPLIT.pre_tokenize_str(part)]
    assert max(map(len, pieces)) <= LONGEST_PIECE + 1  # and perhaps a space before it
    assert (runs.texts, runs.runs) == (1, 2)
    assert len(run) <= runs.longest_characters <= len(run) + 2
    assert "2 runs of more than 1,000 characters without a break, in 1 texts of the sample" in runs.describe()


def test_letters_without_end_do_not_hold_up_training(trained):
    """A quarter of a million letters took 27 s; now every piece that the trainer sees is short, and common words
    stay.
    """
    endless = "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz", k=250_000))
    seen = train_tokenizer([*TEXTS, endless], TokenizerConfig(vocabulary_size=340))
    assert len(json.loads(seen)["model"]["vocab"]) == 340
    assert train_tokenizer(TEXTS, CONFIG) == trained


@pytest.mark.parametrize("fast", [True, False])
def test_text_never_becomes_a_marker_and_comes_back_whole(trained, fast):
    encoder = Encoder(trained, fast)
    ids, lengths = encoder.encode(PROBES)
    assert encoder.backend == ("gigatoken" if fast else "tokenizers")
    assert ids.min() > 2
    ends = np.cumsum(lengths)
    assert tuple(encoder.decode(ids[end - n : end]) for n, end in zip(lengths, ends, strict=True)) == PROBES


def test_both_encoders_agree_on_generated_text(trained):
    rng = random.Random(0)
    alphabet = "ab Z'.\n\t09é漢字👍\u0301</s>用户AI\u3000_"
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(60))) for _ in range(2000)]
    fast, slow = Encoder(trained), Encoder(trained, fast=False)
    assert fast.backend == "gigatoken"
    for one, other in zip(fast.encode(texts), slow.encode(texts), strict=True):
        assert np.array_equal(one, other)


def adversarial(rng: random.Random, characters: dict[str, list[str]]) -> str:
    """A few pieces, each from a random general category of Unicode or from what encoders have stumbled over."""
    pieces = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 20])):
        if rng.random() < 0.5:
            pieces.append(rng.choice(STUMBLES))
        else:
            pool = characters[rng.choice(sorted(characters))]
            pieces.append(rng.choice(pool[:300] if rng.random() < 0.7 else pool) * rng.choice([1, 1, 2, 7]))
    if rng.random() < 0.01:
        pieces.append(rng.choice("a漢1 =é\n") * rng.choice([500, 5000]))
    return "".join(pieces)


STUMBLES = (
    "'s",
    "'S",
    "'LL",
    "'ſ",
    "</s>",
    "<用户>",
    "<AI>",
    "< /s>",
    "\r\n",
    "\n\n",
    "  ",
    "\t",
    "   ",
    "👩‍👩‍👧‍👦",
    "🇨🇳",
    "👍🏽",
    "e\u0301",
    "\u200d",
    "\ufe0f",
    "Hello",
    "世界",
    "混合text",
    "123",
    "０１",
    "...",
    "!=",
    "\x00",
    "\x85",
    "\u2028",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\U00010940\U00010941",
    "\ua7ce",
    "\u088f",
    "\uffff",
)


def test_ids_are_those_of_tokenizers_on_adversarial_text():
    """The tokenizer is trained on such text: without merges, every way to cut it gives the same ids."""
    rng, characters = random.Random(7), {}
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category not in ("Cs", "Co", "Cn"):
            characters.setdefault(category, []).append(chr(code))
    texts = [adversarial(rng, characters) for _ in range(3000)]
    tokenizer = train_tokenizer(texts[:2000], TokenizerConfig(vocabulary_size=6000))
    fast, slow = Encoder(tokenizer), Encoder(tokenizer, fast=False)
    for start in range(0, len(texts), 1000):
        batch = texts[start : start + 1000]
        for one, other in zip(fast.encode(batch), slow.encode(batch), strict=True):
            assert np.array_equal(one, other)
    assert fast.backend == "gigatoken"
    # the detour is needed: gigatoken alone cuts the newest letters differently
    raw, expected = _encode_fast(fast._fast, texts), slow.encode(texts)
    assert not np.array_equal(raw[1], expected[1])


def test_ids_are_those_of_tokenizers_on_the_smoke_corpus():
    """Its kinds of text: Python modules, worked problems in English and in Chinese."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:12]
    texts = [path.read_text(encoding="utf-8") for path in modules]
    for name in ("english_problems", "chinese_problems"):
        texts += [text for text, _ in GENERATORS[name].make([], 5, 0, 150)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocabulary_size=1000))
    fast, slow = Encoder(tokenizer), Encoder(tokenizer, fast=False)
    for one, other in zip(fast.encode(texts), slow.encode(texts), strict=True):
        assert np.array_equal(one, other)
    assert fast.backend == "gigatoken"


def test_texts_with_unassigned_characters_are_found():
    texts = ["ascii", "漢字かな", "a\U00010940", "", "é👍", "\uffff", "x" * 5000 + "\u0378", "한국어", "\U000e0001"]
    assert unsettled(texts) == [2, 5, 6]
    assert unsettled(["only ascii"]) == unsettled([]) == []


def test_a_later_disagreement_hands_over_to_tokenizers(trained, monkeypatch):
    honest = _encode_fast

    def wrong_on_fox(fast, texts):
        ids, lengths = honest(fast, texts)
        return (ids[::-1] if any("fox" in text for text in texts) else ids), lengths

    monkeypatch.setattr("pipelines.data.tokens.tokenizer._encode_fast", wrong_on_fox)
    encoder, slow = Encoder(trained), Encoder(trained, fast=False)
    assert np.array_equal(encoder.encode(["a cat"])[0], slow.encode(["a cat"])[0])
    assert encoder.backend == "gigatoken"
    assert np.array_equal(encoder.encode(["The fox"])[0], slow.encode(["The fox"])[0])
    assert (encoder.backend, encoder.reason) == ("tokenizers", "gigatoken disagrees with tokenizers on 'The fox'")


def test_disagreement_falls_back_with_a_reason(trained, monkeypatch):
    monkeypatch.setattr(
        "pipelines.data.tokens.tokenizer._encode_fast", lambda fast, texts: (np.zeros(1, np.uint32), np.ones(1, int))
    )
    encoder = Encoder(trained)
    assert encoder.backend == "tokenizers"
    assert "gigatoken disagrees" in encoder.reason
    assert encoder.encode(["fox"])[0].min() > 2


def test_digits_stay_single(encoder):
    ids, _ = encoder.encode(["12345"])
    assert [encoder.decode([i]) for i in ids] == list("12345")


@pytest.fixture(scope="module")
def loaded(trained, tmp_path_factory):
    """What `transformers` reads from the folder."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in tokenizer_files(trained).items():
        (folder / name).write_bytes(content)
    return AutoTokenizer.from_pretrained(folder)


def turns(*texts, system=()):
    """Messages: system texts, then user and assistant in turn."""
    roles = ["user", "assistant"] * len(texts)
    talk = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": text} for text in system] + talk


def test_transformers_reads_it_unchanged(loaded, encoder):
    from transformers import PreTrainedTokenizerFast

    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert (loaded.eos_token_id, loaded.pad_token_id, len(loaded)) == (0, 0, 340)
    text = "The fox, 话说 12\n  x"
    assert loaded.encode(text, add_special_tokens=False) == encoder.encode([text])[0].tolist()
    assert loaded.decode(loaded.encode(text)) == text


@pytest.mark.parametrize(
    "messages",
    [
        turns("1+1", "2"),
        turns(" hi \n", "你好 ", "1+1", "2", "3", "4", system=["be brief"]),
        [*turns("a", "b"), *turns("c", "d", system=["one", "two\n"])],
        turns("a</s>b <用户> c <AI> d", "<AI>x</s></s>", system=["</s"]),
        turns("<</s>/s>", "<用户", "户><AI>", "</s>"),
        turns("\ufdd1</s>\ufdd1<\ufdd1/s>", "x"),
    ],
)
def test_the_template_gives_the_ids_and_the_mask_of_training(loaded, encoder, messages):
    plain = [{**message, "content": message["content"].replace("\ufdd1", "")} for message in messages]
    pairs = exchanges(plain)
    texts = [part for pair in pairs for part in pair]
    ours, _, mask = assemble(*encoder.encode(texts), np.array([len(pairs)]))
    theirs = loaded.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert theirs["input_ids"] == ours.tolist()
    assert theirs["assistant_masks"] == mask.tolist()
    asked = loaded.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert asked == encoder.encode_prompt(plain[:-1]).tolist()
    markers = [i for i in asked if i < 3]
    assert markers == [1, 2, 0] * (len(pairs) - 1) + [1, 2]  # none that was typed


@pytest.mark.parametrize(
    ("messages", "options", "why"),
    [
        (
            [*turns("a"), {"role": "tool", "content": "b"}],
            {},
            "not trained with the role tool: expected system, user or assistant",
        ),
        ([{"role": "developer", "content": "b"}, *turns("a")], {}, "not trained with the role developer"),
        (turns("a", ""), {}, "a message of assistant holds no text"),
        (turns(" \n"), {}, "a message of user holds no text"),
        (turns("a", system=[" "]), {}, "a message of system holds no text"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], {}, "a message of user holds no text"),
        ([*turns("a"), *turns("b")], {}, "two questions follow each other"),
        ([*turns("a"), *turns("b", system=["s"])], {}, "a system message follows a question"),
        (turns("a", "b")[1:], {}, "an answer follows no question"),
        ([*turns("a", "b"), *turns("c", "d")[1:]], {}, "an answer follows no question"),
        ([*turns("a", "b"), *turns(system=["s"])], {}, "no question follows"),
        (
            turns("a", "b"),
            {"add_generation_prompt": True},
            "add_generation_prompt asks for an answer where no question is open",
        ),
        (turns("a"), {"tools": [{"type": "function", "function": {"name": "f"}}]}, "was not trained with tools"),
        (
            [*turns("a"), {"role": "assistant", "content": "b", "tool_calls": [{"function": {"name": "f"}}]}],
            {},
            "not trained to call tools",
        ),
    ],
)
def test_the_template_refuses_what_training_never_saw(loaded, messages, options, why):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match=why):
        loaded.apply_chat_template(messages, tokenize=False, **options)


def test_text_without_the_template_is_guarded_by_an_option(loaded):
    """What the model card advises."""
    assert 0 in loaded("a</s>b")["input_ids"]
    assert min(loaded("a</s>b <用户><AI>", split_special_tokens=True)["input_ids"]) > 2


def test_every_tokenizer_of_others_is_guarded_once(trained):
    old = json.dumps({**json.loads(trained), "normalizer": None})
    assert guarded(trained) == trained == guarded(old)
    assert (
        Encoder(trained).encode(["a\ufdd1b"])[0].tolist() == Encoder(old).encode(["a\ufdd1b"])[0].tolist()
    )  # ours take nothing out
    assert Encoder(trained).decode(Encoder(trained).encode(["a\ufdd1b"])[0]) == "a\ufdd1b"


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ConfigError, match="vocabulary_size is 100; expected at least 259"):
        TokenizerConfig(vocabulary_size=100)
    with pytest.raises(ConfigError, match="tokenizer.shares and tokenizer.mixture=x both say"):
        TokenizerConfig(shares={"a": 1.0}, mixture="x")
    with pytest.raises(DataError, match="sample is empty"):
        train_tokenizer([], CONFIG)
