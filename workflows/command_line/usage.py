"""What `--help` prints: the command's own words, its keys with their defaults, what can be chosen.

Enters: the name of a workflow. Leaves: text, read from the YAML files of conf/: the comments beside the keys are the
help, so no key is described in two places.
"""

from __future__ import annotations

from pipelines.display.progress import say
from workflows.command_line import places
from workflows.command_line.commands import words_of


def print_usage(workflow: str) -> None:
    """What the command does, its keys with their defaults, and what can be chosen."""
    say(words_of(workflow).strip())
    say(f"\nKeys and defaults (conf/{workflow}.yaml); change any with key=value or group.key=value:\n")
    blocks, groups, bases = _keys_of(workflow)
    say("\n".join(line for block in blocks.values() for line in block))
    for base in bases:
        shared, shared_groups, _ = _keys_of(base)
        say(f"\nKeys that others have too (conf/{base}.yaml):\n")
        say("\n".join(line for key, block in shared.items() if key not in {*blocks, *groups} for line in block))
        groups += shared_groups
    say("\nChoices, as group=choice:\n")
    for group in groups:
        say(f"    {group:<10} {', '.join(_choices(group))}")
    experiments = places.experiments(workflow)
    say(f"\nExperiments: {', '.join(f'+experiment={name}' for name in experiments) or 'none for this workflow'}")
    say(
        "Also: dry_run=true (the plan, nothing started), --cfg job (the composed config), -m key=a,b (a sweep: "
        "all turns are checked first)"
    )


def _choices(group: str) -> list[str]:
    """The files of a group; of its folders, where it has nothing else."""
    return places.choices(group) or places.choices(group, deep=True)


def _keys_of(name: str) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """What a YAML of conf/ states: the lines of each of its keys, indented; the groups it chooses from; the files it
    builds on.
    """
    blocks: dict[str, list[str]] = {}
    for line in (places.SHIPPED / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key = line.partition(":")[0] if line[0] != " " else list(blocks)[-1]
            blocks.setdefault(key, []).append(f"    {line}")
    listed = [line.strip("- /").split("#")[0].strip() for line in blocks["defaults"][1:] if "_self_" not in line]
    groups = [entry.partition(":")[0] for entry in listed if ":" in entry]
    return blocks, groups, [entry for entry in listed if ":" not in entry]
