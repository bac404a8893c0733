"""Self-contained HTML pages: a frame with its styles, tables, bars, things to unfold.

Enters: plain values, escaped here. Leaves: HTML strings. Nothing is fetched and no script runs. Colours are variables
with a light and a dark value. Wide tables scroll on their own and everything else wraps, as a phone needs it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root{
  color-scheme:light dark;--paper:#fff;--ink:#22272b;--soft:#626b73;--line:#dfe3e6;--wash:#f4f6f7;--one:#33658a;
  --two:#c9621a;--warn:#fff4df;--edge:#d8962a;--gone:#fbdcd6;--new:#d5efdc
}
@media(prefers-color-scheme:dark){:root{
  --paper:#14181b;--ink:#e4e8ea;--soft:#98a3ab;--line:#333b41;--wash:#1d2327;--one:#6aa5d0;--two:#f0955a;
  --warn:#33290f;--edge:#c98f2c;--gone:#5a2a22;--new:#1f4a2c
}}
*{box-sizing:border-box}
body{
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans SC","PingFang SC","Microsoft YaHei",sans-serif;
  color:var(--ink);background:var(--paper);margin:0
}
main{max-width:1060px;margin:0 auto;padding:1.2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .7rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.5rem 0}
a{color:var(--one)}
.soft,figcaption{color:var(--soft);font-size:.88rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem;margin:.6rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:.6rem;margin:1rem 0}
.tiles div{background:var(--wash);border-radius:6px;padding:.6rem .8rem}
.tiles b{display:block;font-size:1.25rem}
.warn{background:var(--warn);border-left:4px solid var(--edge);padding:.6rem .9rem;border-radius:4px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;max-width:26rem}
th{color:var(--soft);font-weight:600;white-space:nowrap}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.first{white-space:nowrap}
td.long{min-width:19rem}
.bars{
  display:grid;grid-template-columns:max-content 1fr max-content;gap:.25rem .7rem;align-items:center;
  font-size:.9rem
}
.bars span{overflow-wrap:anywhere}
.bars i{display:block;height:.8rem;background:var(--one);border-radius:2px;min-width:1px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:1rem 1.4rem}
figure{margin:0;min-width:0}
figure.wide{max-width:640px}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font-size:11px}
svg .name{fill:var(--ink)}
details{border-bottom:1px solid var(--line);padding:.35rem 0}
summary{cursor:pointer}
summary .soft{float:right;margin-left:.8rem}
blockquote{
  margin:.5rem 0;padding:.5rem .8rem;background:var(--wash);border-radius:4px;white-space:pre-wrap;
  overflow-wrap:anywhere;font-size:.88rem;max-height:15rem;overflow-y:auto
}
blockquote .where{display:block;color:var(--soft);font-size:.85em}
code{font-size:.92em;overflow-wrap:anywhere}
del{background:var(--gone);text-decoration:none}
ins{background:var(--new);text-decoration:none}
pre{overflow-x:auto;background:var(--wash);padding:.7rem;border-radius:4px;font-size:.8rem}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file. Args: parts, HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def text(value: Any) -> str:
    """A value as escaped text: None a dash, thousands separated."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
    return html.escape(shown)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], number_columns: Sequence[str] = ()) -> str:
    """A table that scrolls on its own. Args: number_columns, headings of those that are set to the right."""
    classes = []
    for place, name in enumerate(header):
        long = any(len(str(row[place])) > 30 for row in rows)  # room enough that it does not become a tower on a phone
        classes.append("number" if name in number_columns else "first" if place == 0 else "long" if long else "")
    marks = [f' class="{name}"' if name else "" for name in classes]
    head = "".join(f"<th{mark}>{html.escape(name)}</th>" for mark, name in zip(marks, header, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{mark}>{text(value)}</td>' for mark, value in zip(marks, row, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """(name, amount) pairs as a row of boxes."""
    return (
        '<div class="tiles">'
        + "".join(f'<div><b>{text(value)}</b><span class="soft">{text(name)}</span></div>' for name, value in pairs)
        + "</div>"
    )


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars. Args: rows of (label, size, the size in words)."""
    most = max((size for _, size, _ in rows), default=0) or 1
    cells = (
        f'<span>{text(label)}</span><i style="width:{100 * size / most:.1f}%"></i>'
        f'<span class="number">{text(words)}</span>'
        for label, size, words in rows
    )
    return f'<div class="bars">{"".join(cells)}</div>'


def unfold(summary: str, aside: str, inside: str) -> str:
    """A line that opens. Args: summary and aside, plain text; inside, HTML."""
    line = f'<code>{text(summary)}</code> <span class="soft">{text(aside)}</span>'
    return f"<details><summary>{line}</summary>{inside}</details>"


def quote(where: str, excerpt: str) -> str:
    """An excerpt of a document under the line that says where it is from. Args: plain text."""
    return f'<blockquote><span class="where">{text(where)}</span>{html.escape(excerpt)}</blockquote>'
