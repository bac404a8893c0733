"""What every reader of an export is asked: strings to tokenize, conversations to render, prompts to continue.

All are fixed: the same seed gives the same strings. They are what tokenizers have been seen to disagree on: English,
Chinese of both scripts, code, emoji with joiners, combining marks, control characters, code points of every plane, runs
of spaces, digits, typed markers, very long words.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Sequence

from pipelines.data.tokens.chat import GUARD, SPECIAL_TOKENS, Message
from pipelines.data.tokens.tokenizer import PROBES

Prompt = str | list[Message]
STRINGS, PROMPTS, GREEDY_TOKENS = 5_000, 20, 64
SEED = 13

_EN_WORDS = """the of and a to in is was he for it with as his on be at by I this had not are but from or have an they
which one you were her all she there would their we him been has when who will more no if out so said what up its about
into than them can only other new some could time these two may then do first any my now such like our over man me even
most made after also did many before must through years where much your way well down should because I'm don't it's
we've they'll John's naïve café résumé coöperate O'Neil state-of-the-art e.g. U.S.A. Mr. etc."""
_EN = _EN_WORDS.split()
_ZH_SIMPLIFIED = (
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去"
    "行过家十用发天如然作方成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从"
)
_ZH_TRADITIONAL = (
    "話說天下大勢分久必合宴桃園豪傑三結義斬黃巾英雄首立功這為來個們對國時會後裡還發經學進種將無與點開關門電車體"
)
_ZH_SIGNS = "，。！？；：、“”‘’（）《》……——　·"
_CODE = (
    "def f(x: int) -> str:\n    return f'{x!r}'\n",
    "for (int i = 0; i < n; ++i) { a[i] <<= 2; }",
    "#include <stdio.h>\n",
    "SELECT * FROM t WHERE a >= 1 AND b != 'x';",
    "\tif err != nil {\n\t\treturn nil, err\n\t}\n",
    "</div><br/>&nbsp;",
    '{"key": [1, 2.5e-3, null], "值": "中文"}',
    "x = np.zeros((3, 4), dtype=np.float32)  # 注释",
    "$ rm -rf ./build && make -j4",
    "https://例子.测试/a?b=c&d=%E4%BD%A0#e",
    "\\frac{a}{b} \\leq \\sum_{k \\in K} x_k",
    "0xDEADBEEF 0b1010 1_000_000",
)
_ZWJ, _EMOJI_STYLE = "\u200d", "\ufe0f"
_EMOJI = (
    _ZWJ.join("👩👩👧👦"), "👍🏽", "🇨🇳", f"🏳{_EMOJI_STYLE}{_ZWJ}🌈", f"☃{_EMOJI_STYLE}", f"1{_EMOJI_STYLE}\u20e3",
    f"🧑🏿{_ZWJ}🚀", "😀😀", f"👨{_ZWJ}💻", f"❤{_EMOJI_STYLE}{_ZWJ}🔥", "🫠", _ZWJ, "🏴\U000e0067\U000e0062\U000e007f",
)  # fmt: skip
_OTHERS_WORDS = """Ελληνικά Кириллица עברית العربية हिन्दी ไทย 한국어 日本語とカタカナ ｶﾅ Ⅻ½² ﬁ ǅ ß İ ſ Tiếng Việt
ქართული አማርኛ 𝔘𝔫𝔦 𠀀𪚥 １２３ ٣٤٥"""
_OTHERS = _OTHERS_WORDS.split()
_MARKS = [chr(code) for code in (*range(0x300, 0x310), 0x323, 0x331, 0x20DD, 0x3099, 0x64B, 0x94D, 0xE34)]
_SPACES = [*" \t\n\r\x0b\x0c\x85\u00a0\u2003\u3000\u2028\u2029", "  ", "\r\n", "\n\n\n"]
_CONTROL = [*map(chr, (*range(0x20), 0x7F, *range(0x80, 0xA0))), *"\ufeff\u200b\u200e\u2060\ufffd\ufffc"]
_MARKERS = (
    *SPECIAL_TOKENS, "</ s>", "<s>", "<AI", "用户>", "<|endoftext|>", "<|im_start|>", "[INST]", "<unk>",
    "<0x0A>", "▁", "Ġ",
)  # fmt: skip


def strings(n: int = STRINGS, seed: int = SEED, heldout: Sequence[str] = ()) -> list[str]:
    """Texts to tokenize, none twice.

    Args: heldout, texts of the run's own held-out documents, which are among them.
    """
    draws = random.Random(seed)
    made: dict[str, None] = dict.fromkeys([*PROBES, *heldout][: max(0, n)])
    while len(made) < n:
        parts = draws.choice((1, 1, 1, 2, 3))
        between = draws.choice(("", "", " ", "\n"))
        made[between.join(draws.choice(_KINDS)(draws) for _ in range(parts))] = None
    return list(made)


def _some(draws: random.Random, of: Sequence[str], between: str, least: int = 1, most: int = 12) -> str:
    return between.join(draws.choice(of) for _ in range(draws.randint(least, most)))


def _english(draws: random.Random) -> str:
    text = _some(draws, _EN, " ", 2, 20)
    return draws.choice((text, text.capitalize() + ".", text.upper(), text.title() + "!", f'"{text}", she said'))


def _chinese(draws: random.Random) -> str:
    signs = draws.choice(_ZH_SIGNS)
    return (
        _some(draws, draws.choice((_ZH_SIMPLIFIED, _ZH_TRADITIONAL)), "", 2, 30)
        + signs
        + _some(draws, _ZH_SIMPLIFIED, "")
    )


def _decomposed(draws: random.Random) -> str:
    words = _some(draws, ("é", "ñ", "ü", "가", "ệ", "Å", "ō", "が", "naïve", "Crème brûlée"), draws.choice(("", " ")))
    return unicodedata.normalize(draws.choice(("NFD", "NFKD", "NFC")), words) + _some(draws, _MARKS, "", 0, 4)


def _points(least: int, most: int) -> Callable[[random.Random], str]:
    def make(draws: random.Random) -> str:
        codes = [draws.randint(least, most) for _ in range(draws.randint(1, 12))]
        return "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF)

    return make


def _digits(draws: random.Random) -> str:
    number = str(draws.randrange(10 ** draws.randint(1, 30)))
    return draws.choice(
        (number, f"-{number}.{number}", f"{number[:3]},{number[:3]}", f"{number}%", f"${number}", f"{number}年")
    )


def _long(draws: random.Random) -> str:
    return draws.choice(("a", "ab", "你好", "あ", "=", "-", "1", "é", "😀", "é", "Aa0_")) * draws.randint(50, 700)


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _english,
    _english,
    _chinese,
    _chinese,
    lambda draws: _chinese(draws) + _english(draws) + _chinese(draws),
    lambda draws: _some(draws, _CODE, draws.choice(("", " ", "\n")), 1, 3),
    lambda draws: _some(draws, _EMOJI, draws.choice(("", " ")), 1, 6),
    lambda draws: _some(draws, _OTHERS, draws.choice(("", " ")), 1, 6),
    _decomposed,
    lambda draws: _some(draws, _SPACES, "", 1, 8) + draws.choice(_EN) + _some(draws, _SPACES, "", 0, 5),
    lambda draws: _some(draws, _CONTROL, draws.choice(("", "a", " ")), 1, 6),
    _digits,
    _points(0x80, 0xFFFF),
    _points(0x10000, sys.maxunicode),
    _points(0x4E00, 0x9FFF),
    lambda draws: _some(draws, _MARKERS, draws.choice(("", " ", "你好", "a")), 1, 4),
    lambda draws: draws.choice(_EN) + GUARD + draws.choice((*_EN, *_MARKERS)),
    _long,
)


def conversations() -> list[list[Message]]:
    """Conversations that end with a question: turns, system messages, both languages, typed markers."""

    def turns(*texts: str) -> list[Message]:
        return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]

    brief: Message = {"role": "system", "content": "Be brief."}
    chinese: Message = {"role": "system", "content": "请用中文回答。"}
    text = "Trunkline: 12 + 7 = 19.\n话说天下大势，分久必合。"
    return [
        turns("What is 12 plus 7?"),
        turns("你好！12 加 7 等于多少？"),
        [brief, *turns(text, "19", "a</s>b <用户> c <AI> d")],
        [chinese, brief, *turns("你是谁？")],
        [*turns("Hello", "Hello! How can I help?", "Tell me a story.", "Once upon a time."), brief, *turns("Shorter.")],
        turns("  leading and trailing  ", "\nanswer\n", "\n\nanother\t"),
        turns("<AI>", "</s>", "<用户><AI></s>"),
        turns("def f(x):\n    return x\n", "It returns `x`.", "为什么？👩‍👩‍👧‍👦"),
        turns("e\u0301 ñ \u3000 Ⅻ ½"),
        turns("话" * 40 + "end" * 40),
    ]


def prompts() -> list[Prompt]:
    """20 beginnings, half of them English, half Chinese; of each half, five are texts and five are conversations."""
    texts = (
        "Once upon a time", "The capital of France is", "12 + 7 =", "def add(a, b):\n    return", "In the year 1900,",
        "从前有一座山，", "中国的首都是", "春眠不觉晓，", "话说天下大势，", "一九四九年，",
    )  # fmt: skip
    asked = (
        "What is 12 plus 7?", "Who are you?", "Tell me a short story.", "Name three colours.", "Is water wet?",
        "12 加 7 等于多少？", "你是谁？", "请讲一个短故事。", "说出三种颜色。", "水是湿的吗？",
    )  # fmt: skip
    chats: list[Prompt] = [[{"role": "user", "content": question}] for question in asked]
    return [*texts, *chats]
