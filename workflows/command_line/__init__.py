"""From typed words to a config: the command, its YAMLs, what Hydra composes of them, what is said of a mistake."""
