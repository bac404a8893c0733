"""Copies found over the whole corpus by tasks that each hold a bounded part of it."""
