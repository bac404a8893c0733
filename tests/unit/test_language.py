"""Language by script first: where fastText alone is known to be wrong."""

import pytest

from pipelines.data.cleaning.language import detect


@pytest.mark.parametrize(
    ("text", "language", "variant"),
    [
        ("白日依山盡，黃河入海流。欲窮千里目，更上一層樓。", "zh", "hant"),  # lid.176 says ja
        ("滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。", "zh", "hans"),
        ("我们用 Transformer 训练 language model 的时间", "zh", "hans"),
        ("これは日本語の文章です。漢字も入っています。", "ja", ""),
        ("이것은 한국어 문장입니다.", "ko", ""),
        ("The Senate and the House of Representatives met in December.", "en", ""),
        ("Это предложение написано на русском языке.", "ru", ""),
        ("12345 + 67 = ?", "und", ""),
        ("", "und", ""),
        ("😀😀😀", "und", ""),
    ],
)
def test_detect(text: str, language: str, variant: str) -> None:
    found = detect(text)
    assert (found.language, found.variant) == (language, variant)
    assert 0 <= found.score <= 1


def test_kana_of_half_width_is_japanese() -> None:
    assert detect("ﾊﾟｿｺﾝﾃﾞﾌﾟﾛｸﾞﾗﾑｦﾂｸﾙﾄｷﾊ ﾏｽﾞｴﾃﾞｨﾀｰｦﾋﾗｲﾃ").language == "ja"
