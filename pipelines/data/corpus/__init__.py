"""A corpus from its recipe to its manifest, and the page that shows it."""
