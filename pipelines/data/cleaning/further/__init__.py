"""Passes that a recipe asks for by name, beside those that every corpus goes through (see `passes`).

Enters: nothing. Leaves: the table `FURTHER`. To add one: a file in this folder with its `Settings` and its
`FurtherPass`, and a row here. A recipe asks for it with `passes: [{name: …}]`; its reasons are counted, sampled and
shown like all others, the plan says what it costs, and a change to its file makes only the corpora stale that ask for
it.
"""

from __future__ import annotations

from pipelines.data.cleaning.batch import FurtherPass

FURTHER: dict[str, FurtherPass] = {
    # "name": file.PASS,
}
