"""The GPU programme: what to run in the first ten minutes on a card. `python -m benchmarks.gpu --help`."""
