"""The styles of `report.html`, one rule a line."""

STYLE = """
:root{--ink:#22272b;--soft:#6b747c;--line:#e3e6e8;--wash:#f6f7f8;--yes:#2d8a4e;--no:#c0392b}
*{box-sizing:border-box}
body{
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans SC","PingFang SC","Microsoft YaHei",sans-serif;
  color:var(--ink);margin:0;background:#fff
}
main{max-width:1200px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0}
h2{font-size:1.2rem;margin:2.4rem 0 .7rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
.soft{color:var(--soft);font-size:.9rem}
.claim{
  display:flex;gap:.8rem;padding:.7rem .9rem;margin:.5rem 0;background:var(--wash);
  border-left:4px solid var(--soft);border-radius:4px
}
.claim.yes{border-color:var(--yes)}
.claim.no{border-color:var(--no)}
.claim b.sign{font-size:1.3rem;line-height:1.2;width:1.2rem;flex:none;text-align:center}
.yes b.sign{color:var(--yes)}
.no b.sign{color:var(--no)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.84rem;white-space:nowrap}
th,td{padding:.35rem .55rem;border-bottom:1px solid var(--line);text-align:left}
th{color:var(--soft);font-weight:600}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.dot{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.45em}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:1.2rem}
figure{margin:0}
figure img{width:100%;height:auto;display:block}
figcaption{color:var(--soft);font-size:.85rem;padding:0 .4rem}
blockquote{
  margin:.4rem 0;padding:.5rem .8rem;background:var(--wash);border-radius:4px;
  white-space:pre-wrap;overflow-wrap:anywhere;font-size:.92rem
}
blockquote .prompt{color:var(--soft)}
.warn{background:#fff6e5;border-left:4px solid #e0a52f;padding:.6rem .9rem;border-radius:4px}
details>summary{cursor:pointer}
code{font-size:.9em}
"""
