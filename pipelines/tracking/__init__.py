"""MLflow: what it is told, where it keeps it, and the points that wait while it is away."""
