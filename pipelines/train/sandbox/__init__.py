"""The wind tunnel: from a study's YAML to trials, from their results to a page and a config for the big run."""
