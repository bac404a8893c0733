"""Runs that agree up to a step train those steps once: the tree of any list of runs."""
