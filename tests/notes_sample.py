"""Ordinary notes as people keep them, and what lies in the same folders and is no text: the sample behind `notes`.

Enters: `notes_sample.md`, whose notes begin with a line `%% name`, and what is generated here from a seed. Leaves: two
mappings, name -> text.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

_FILE = Path(__file__).with_name("notes_sample.md")


def notes() -> dict[str, str]:
    """Notes in English and Chinese: meetings, lists, recipes, diaries, mails, tables, lectures."""
    parts = _FILE.read_text(encoding="utf-8").split("%% ")[1:]
    return {name: text.strip("\n") for name, _, text in (part.partition("\n") for part in parts)}


def junk() -> dict[str, str]:
    """What nobody would call text: blobs, logs, dumps, menus, what was copied over and over."""
    r = random.Random(0)
    blob = base64.b64encode(r.randbytes(900)).decode()
    words = [
        "cheap",
        "best",
        "buy",
        "online",
        "price",
        "shop",
        "sale",
        "free",
        "discount",
        "deal",
        "top",
        "offer",
        "new",
        "store",
    ]
    cells = [[str(r.randrange(10_000)) for _ in range(8)] for _ in range(40)]
    traces = [
        f"2024-03-{r.randrange(1, 29):02} 11:{r.randrange(60):02}:07 INFO worker-3 heartbeat ok" for _ in range(60)
    ]
    return {
        "base64": blob,
        "base64 in lines": "\n".join(blob[i : i + 76] for i in range(0, len(blob), 76)),
        "base64 under a heading": "# key\n\n" + blob,
        "private key": "-----BEGIN PRIVATE KEY-----\n"
        + "\n".join(blob[i : i + 64] for i in range(0, len(blob), 64))
        + "\n-----END PRIVATE KEY-----",
        "hex dump": "\n".join(
            f"{i * 16:08x}  " + " ".join(f"{byte:02x}" for byte in r.randbytes(16)) for i in range(40)
        ),
        "checksums": "\n".join(f"{r.randbytes(32).hex()}  part-{i:03}.bin" for i in range(20)),
        "identifiers": "\n".join(r.randbytes(8).hex() for _ in range(60)),
        "numbers, comma-separated": "\n".join(",".join(row) for row in cells),
        "numbers in a table": "\n".join("| " + " | ".join(row) + " |" for row in cells),
        "numbers in columns": "\n".join("\t".join(row) for row in cells),
        "coordinates": "\n".join(f"{r.uniform(-90, 90):.6f}, {r.uniform(-180, 180):.6f}" for _ in range(60)),
        "log": "\n".join(traces),
        "one line many times": "Thanks for your message, I am out of office.\n" * 30,
        "two lines many times": "Click here to reply\nLog in to post\n" * 25,
        "a word many times": "test " * 200,
        "a phrase many times": "buy cheap watches online now " * 60,
        "words of a shop": " ".join(r.choice(words) for _ in range(300)),
        "the same list thrice": ("- bread\n- milk\n- eggs\n- 2 onions\n- tea\n\n" * 3),
        "rules": ("=" * 60 + "\n") * 12,
        "rows of signs": "*-*-*-* ~~~ *** --- === ### +++ " * 20,
        "box drawing": "┌────┬────┐\n│    │    │\n├────┼────┤\n└────┴────┘\n" * 8,
        "emoji": "🎉🎉🎉 🔥🔥 👍👍👍 " * 20,
        "decoded wrongly": "ï»¿Ã¤Ã¶Ã¼ â€œÃŸâ€\x9d Â§Â° Ã©Ã¨Ãª Â½Â¾ Ã±Ã§ " * 10,
        "bytes as text": "".join(chr(r.choice((0xFFFD, 0x2592, 0x25A0, 0x3F))) for _ in range(300)),
        "placeholder": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut "
        "labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco.",
        "nothing but a heading": "# Untitled",
        "one sign": ".",
        "a blank form": "Name: ______\nDate: ______\nSign: ______\n" * 10,
        "paths": "\n".join(f"/srv/data/part-{i:05}/shard-{r.randrange(99):02}.parquet" for i in range(60)),
        "addresses": "\n".join(f"https://cdn.example.com/a/{r.randbytes(12).hex()}.png" for _ in range(40)),
        "numbers of the lottery": " ".join(str(r.randrange(1, 50)) for _ in range(400)),
        "a line of a minified file": "!function(e,t){"
        + "".join(f"var a{i}=e[{i}]||t.b{i};" for i in range(80))
        + "}(this,{});",
        "chinese shop": "优惠 特价 包邮 正品 热卖 促销 爆款 限时 秒杀 新品 " * 30,
        "chinese line many times": "请勿回复此邮件，谢谢。\n" * 30,
        "chinese decoded wrongly": "锟斤拷烫烫烫屯屯屯" * 40,
        "dots": "...... ......\n" * 30,
        "names of photos": "\n".join(f"IMG_{i:04}.JPG" for i in range(2000, 2060)),
        "a table without content": "| | | |\n|---|---|---|\n" + "| | | |\n" * 20,
        "json of measurements": "["
        + ", ".join(f'{{"t": {i}, "v": {r.random():.4f}, "q": {r.randrange(9)}}}' for i in range(60))
        + "]",
        "svg path": '<path d="'
        + " ".join(f"L{r.uniform(0, 99):.2f},{r.uniform(0, 99):.2f}" for _ in range(120))
        + '"/>',
    }
