"""A sweep (`-m`): several turns of one command."""
