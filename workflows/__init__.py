"""One thin file per command, and in `command_line/` and `running/` what they share; only here is Hydra imported."""

from workflows.command_line.environment import check, is_command

# whoever starts a command imports this first, before anything that another Python, or one without torch, lacks
if is_command():
    check()
