"""Model, schedule, optimizer, checkpoints and the one loop that every stage runs. Needs torch and DeepSpeed, never Ray
or Hydra.
"""
