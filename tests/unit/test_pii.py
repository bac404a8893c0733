"""Personal data is masked, and what only looks like it stays."""

from __future__ import annotations

import random

import pytest

from pipelines.data.cleaning.pii import PiiConfig, mask

KINDS = PiiConfig().kinds


def identity(first: str) -> str:
    """A made-up Chinese identity number with its checksum, from its first 17 digits."""
    weights = [pow(2, 17 - i, 11) for i in range(17)]  # how GB 11643 defines them
    return first + "10X98765432"[sum(w * int(c) for w, c in zip(weights, first, strict=True)) % 11]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+news@mail.example.org, please.", "Write to <email>, please."),
        ("联系人：王先生wang_1@sina.com.cn。", "联系人：王先生<email>。"),
        ("<bob@example.com>, al@x-y.museum", "<<email>>, <email>"),
        ("Call +44 20 7946 0958 or +1 (415) 555-2671 today", "Call <phone> or <phone> today"),
        ("Call (415) 555-2671, 415-555-2671 or 415.555.2671.", "Call <phone>, <phone> or <phone>."),
        ("手机13812345678，或+86 138-1234-5678", "手机<phone>，或<phone>"),
        ("电话：010-62345678、（021）61234567、0755-8765432", "电话：<phone>、<phone>、<phone>"),
        (f"身份证{identity('11010519491231002')}号", "身份证<id>号"),
        (f"ID {identity('44030119900101123').lower()}.", "ID <id>."),
        ("from 203.0.114.7 and 91.198.174.192:443", "from <ip> and <ip>:443"),
        (
            "https://host.org/a?u=jane@example.org&v=1 to/jane@example.org",
            "https://host.org/a?u=<email>&v=1 to/<email>",
        ),
        ("email=jane@example.org; (o'neil@example.org)", "email=<email>; (<email>)"),
        ("Call +33 612 345 678, +1 415 555 2671 or 13912345678", "Call <phone>, <phone> or <phone>"),
        ("Chrome users came from 45.55.24.85 and 8.26.56.26", "Chrome users came from <ip> and <ip>"),
        ("host 2a00:1450:4001:81b::200e is up", "host <ip> is up"),
        ("host 2001:4860:4860:0:0:0:0:8888.", "host <ip>."),
    ],
)
def test_personal_data_is_masked(text: str, expected: str) -> None:
    masked, counts = mask([text], KINDS)
    assert masked == [expected]
    assert sum(counts[0].values()) == expected.count("<") - expected.count("<<")
    assert mask(masked, KINDS) == (masked, [{}])  # nothing left, and placeholders are none


@pytest.mark.parametrize(
    "text",
    [
        "pip install package==1.2.3.4 and version 10.20.30.40, v18.2.33.104, kernel 15.10.102.1-generic",
        "local 192.168.0.1, 10.0.0.1, 127.0.0.1, 169.254.1.1 and 300.1.2.3 or 1.2.3.4.5",
        "fe80::1 ::1 2001:db8::8 12:34:56 std::vector abc::def 2024:12:31 2021:100",
        "In 2023-10-15 12:30:45 the price was 1234567.89 of 12,345,678 and 3.14159265358979",
        "ISBN 978-7-302-11622-6, order 1234567890, hash 5d41402abc4b2a76b9719d911017c592",
        "11010519491231002X0 and 110105194912310021 are no identity numbers",
        "a @ b, @decorator, user@localhost, x@y",
        "1,2,3,4,5,6,7,8,9 and 1 2 3 4 5 6 7 8 9 10",
        "0.1234567 0123456789012345 1381234567 138123456789 code0138-12345678x",
        "RFC 2616, section 14.35.1.22, pages 1000-2000 and 100-200-3000",
        "card 4111 1111 1111 1111",
        "see https://medium.com/@john.smith/title and https://youtube.com/@some.name",
        "cdn.example/npm/jquery@3.6.0.min.js, src/@types/node.d.ts, pkg/@scope.name/x",
        "Linux 2.6.32.27, kernel 18.12.32.27, Chrome 45.0.24.85, Firefox 45.55.24.85",
        "Theorem 12.3.4.5 and Lemma 12.13.14.15 hold; OID 18.16.84.11, id-ce 2.5.29.15, 2.5.29.17 extension",
        "grew by +1 000 000 people, +1 250 000, EUR +25.000.000 and +12 345 678",
        "revenue of 15000000000 yuan, 营收18000000000元，亏损 13500000000 元, +1000000 points",
    ],
)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert mask([text], KINDS) == ([text], [{}])


def test_bank_cards_are_masked_when_asked_and_only_with_their_check_digit() -> None:
    text = "4111 1111 1111 1111, 4111-1111-1111-1112, 5500005555555559"
    assert mask([text], ["card"])[0] == ["<card>, 4111-1111-1111-1112, <card>"]


def test_kinds_can_be_chosen_and_counted() -> None:
    texts = ["a@b.cn, c@d.cn: 13812345678", "", "nothing", "😀 91.198.174.192 \ud800"]
    masked, counts = mask(texts, ["email", "ip"])
    assert masked == ["<email>, <email>: 13812345678", "", "nothing", "😀 <ip> \ud800"]
    assert counts == [{"email": 2}, {}, {}, {"ip": 1}]


def test_a_text_is_masked_the_same_alone_and_in_a_batch() -> None:
    chooser = random.Random(3)
    parts = [
        "a@b.cn",
        "+44 20 7946 0958",
        "13812345678",
        "91.198.174.192",
        "(",
        "）",
        "1",
        " ",
        "-",
        ".",
        "字",
        "2a00:1450::1",
    ]
    texts = ["".join(chooser.choices(parts, k=chooser.randrange(9))) for _ in range(500)]
    masked, counts = mask(texts, KINDS)
    assert [mask([text], KINDS) for text in texts] == [([m], [c]) for m, c in zip(masked, counts, strict=True)]
    assert sum(map(len, counts)) > 300
