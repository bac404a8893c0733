"""One thin file per command; the only room that imports Hydra."""

from workflows.environment import check, is_command

# whoever starts a command imports this first, before anything that another Python, or one without torch, lacks
if is_command():
    check()
