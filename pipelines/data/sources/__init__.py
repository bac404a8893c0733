"""Where documents come from: files, web archives, packages, datasets, generated problems."""
