"""The findings as a page: `summary.md`, short enough to be shown whole where only the end of the output comes back.

python -m benchmarks.gpu.summary      of what is in $OUT
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

KNOWN = ("card", "ceiling", "smoke", "worker", "fp8", "loader", "pocket")
ARMS = ("ours", "before", "peer")


def write_summary(out: Path) -> str:
    """Write summary.md. Returns: it, its most important parts last, within 11,000 characters."""
    path = out / "results.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8") or "{}") if path.exists() else {}
    arms = [(section, values) for section, values in found.items() if section.split()[0] in ARMS]
    parts = [
        shown(ceilings, found.get("ceiling", {})),
        *(shown(kernels, section, values) for section, values in arms),
        shown(others, found),
        shown(smoke, found.get("smoke", {})),
        shown(worker, found.get("worker", {})),
        shown(failures, found),
        *(shown(table, section, found.get(section, {})) for section in ("pocket", "loader", "fp8")),
        *(shown(stalls, section, values) for section, values in found.items()),
        *(shown(documents, section, values) for section, values in arms),
        *(shown(swaps, section, values) for section, values in arms),
        shown(steps, out / "steps.tsv"),
        shown(training, found),
    ]
    text = "\n\n".join(["# GPU programme", *filter(None, parts)])
    (out / "summary.md").write_text(text + "\n", encoding="utf-8")
    return text if len(text) < 11_000 else "…\n" + text[-11_000:]


def shown(say: Callable[..., str], *arguments: Any) -> str:
    """A part of the page; what it cannot show leaves the others alone."""
    try:
        return say(*arguments)
    except Exception as error:
        return f"({say.__name__} is not shown: {error!r})"


def steps(table: Path) -> str:
    """Which ran, with what exit, for how long."""
    if not table.exists():
        return ""
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    return "## Steps (exit, seconds)\n\n" + " · ".join(" ".join(row) for row in rows)


def training(found: dict[str, dict[str, Any]]) -> str:
    """Every arm, and the ratios between them."""
    card = found.get("card", {})
    lines = [
        "## Training",
        "",
        f"the card's own 8192³ product: {card.get('product_tflops')} TFLOP/s; {json.dumps(card.get('versions'))}",
        "MFU = FLOPs a token · tokens/s / 989.4 TFLOP/s; causal 6·P + 6·L·D·T, full 6·P + 12·L·D·T FLOPs a token",
        "",
        "| arm | micro × acc | tok/s | ms/4096 | MFU causal | full | of 8192³ | peak GiB (reserved) | plan | loss |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    speeds: dict[str, float] = {}
    for section, values in found.items():
        for key, v in values.items():
            if not isinstance(v, dict) or not {"tokens_per_s", "micro_batch"} <= v.keys():
                continue
            speeds[section] = max(v["tokens_per_s"], speeds.get(section, 0.0))
            label = f"{section} {key.removeprefix('micro_batch=' + str(v['micro_batch']))}".strip()
            lines.append(
                f"| {label} | {v['micro_batch']} × "
                f"{v['accumulation']} | {v['tokens_per_s']:,.0f} | {v['ms_per_4096_tokens']} | {v['mfu_causal']:.1%} | "
                f"{v['mfu_full']:.1%} | {share(v.get('causal_of_product'))} | {v.get('peak_allocated_gib')} "
                f"({v.get('peak_reserved_gib')}) | {v.get('predicted_gib_without_process', '')} | {v['loss']} |"
            )
    for section, speed in speeds.items():
        arm, _, model = section.partition(" ")
        ratios = [
            f"{other} × {speed / speeds[f'{other} {model}']:.2f}"
            for other in ("before", "peer")
            if f"{other} {model}" in speeds
        ]
        if arm == "ours" and ratios:
            lines.append(f"\nours {model}: " + ", ".join(ratios))
    return "\n".join(lines)


def share(value: float | None) -> str:
    """As percent."""
    return "-" if value is None else f"{value:.1%}"


def table(section: str, values: dict[str, Any]) -> str:
    """A section, a line a finding; curves in full are in results.json."""
    lines = [
        f"- {key}: {json.dumps(v, ensure_ascii=False, default=str)[:600]}"
        for key, v in values.items()
        if not (
            "!" in key or "out of memory" in key or isinstance(v, list) or (isinstance(v, dict) and "micro_batch" in v)
        )
    ]
    return f"## {section}\n\n" + "\n".join(lines) if lines else ""


def worker(values: dict[str, Any]) -> str:
    """What does not hold, and how much does."""
    checks = {key: v for key, v in values.items() if isinstance(v, dict) and "ok" in v}
    if not values:
        return ""
    wrong = [f"- **not ok: {key}**: {json.dumps(v.get('more'))[:300]}" for key, v in checks.items() if not v["ok"]]
    told = [
        f"- {key}: {json.dumps(v, default=str)[:200]}"
        for key, v in values.items()
        if "!" not in key and (key not in checks or "bit-equal" in key)
    ]
    return f"## worker: {len(checks) - len(wrong)} of {len(checks)} checks hold\n\n" + "\n".join(wrong + told)


def stalls(section: str, values: dict[str, Any]) -> str:
    """How a save holds training."""
    lines = [f"- {key}: {json.dumps(values[key], default=str)[:900]}" for key in ("stall", "save") if key in values]
    return f"## {section}: a save\n\n" + "\n".join(lines) if lines else ""


def documents(section: str, values: dict[str, Any]) -> str:
    """Packed documents, by kernel."""
    lines = [f"- {key}: {json.dumps(v)[:300]}" for key, v in values.get("documents", {}).items()]
    return f"## {section}: packed documents\n\n" + "\n".join(lines) if lines else ""


def swaps(section: str, values: dict[str, Any]) -> str:
    """One change at a time."""
    if "swaps" not in values:
        return ""
    usual = [v for k, v in values["swaps"].items() if k.startswith("as it is") and isinstance(v, float)]
    base = sum(usual) / len(usual) if usual else None
    lines = [f"## {section}: one thing swapped, ms for 4,096 tokens", ""]
    for label, value in values["swaps"].items():
        more = f" ({value - base:+.2f})" if isinstance(value, float) and base and not label.startswith("as it") else ""
        lines.append(f"- {label}: {value}{more}")
    return "\n".join(lines)


def kernels(section: str, values: dict[str, Any]) -> str:
    """Where a step's time goes."""
    if "kernels" not in values:
        return ""
    lines = [
        f"## {section}: where a step's time goes",
        "",
        "```",
        *values.get("profile", []),
        "```",
        "",
        "no products:",
        "",
    ]
    lines += [
        f"- {r['share']:.1%}, {r['ms_per_step']} ms in {r['calls_per_step']} calls: `{r['name'][:90]}`"
        for r in values.get("not_products", [])
    ]
    lines += ["", "all:", ""]
    lines += [
        f"- {r['share']:.1%} {r['ms_per_step']} ms × {r['calls_per_step']} `{r['name'][:70]}`"
        for r in values["kernels"][:12]
    ]
    if "waits" in values:
        lines += ["", "host waits in a step of two micro-batches: " + json.dumps(values["waits"])[:900]]
    return "\n".join(lines)


def ceilings(values: dict[str, Any]) -> str:
    """What the card reaches."""
    if not values:
        return ""
    return "## Ceilings\n\n" + "\n".join(
        f"- {key}: {json.dumps(v, ensure_ascii=False)[:300]}" for key, v in values.items() if "!" not in key
    )


def failures(found: dict[str, dict[str, Any]]) -> str:
    """What went wrong, or had no time or no room."""
    lines = []
    for section, values in found.items():
        for key, v in values.items():
            if "!" in key or "out of memory" in key:
                text = v.get("error") if isinstance(v, dict) else v
                lines.append(f"- **{section} {key}**: {str(text)[:260]}")
    return "## Went wrong\n\n" + "\n".join(lines) if lines else ""


def smoke(values: dict[str, Any]) -> str:
    """The tests that failed, and what those say that measure."""
    if not values:
        return ""
    failed = [
        f"- **{key}**: {json.dumps(v, default=str)[:300]}" for key, v in values.items() if key.startswith("FAILED")
    ]
    told = [
        f"- {key}: {json.dumps(v, default=str)[:400]}"
        for key, v in values.items()
        if any(mark in key for mark in ("wait", "peak", "graph", "memory"))
    ]
    return f"## Smoke: {len(failed)} failed, {len(values)} findings\n\n" + "\n".join(failed[:12] + told)


def others(found: dict[str, dict[str, Any]]) -> str:
    """Sections that no other part of the page shows."""
    lines = []
    for section, values in found.items():
        if section in KNOWN or section.split()[0] in ARMS:
            continue
        lines += [
            f"- {section} {key}: {json.dumps(v, ensure_ascii=False, default=str)[:400]}"
            for key, v in values.items()
            if "!" not in key and key not in ("stall", "save")
        ]
    return "## Other findings\n\n" + "\n".join(lines) if lines else ""


if __name__ == "__main__":
    print(write_summary(Path(os.environ.get("OUT", "/tmp/gpu_out"))))
