"""What a person sees: progress in a terminal, plots, pages."""
