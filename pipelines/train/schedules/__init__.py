"""Learning rates as functions of the step alone, and the shapes of their decays."""
