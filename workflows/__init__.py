"""One thin file per command; the only room that imports Hydra."""
