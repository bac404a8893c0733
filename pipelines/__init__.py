"""Trunkline: trains small language models the MiniCPM way, from raw text to an exported model."""

__version__ = "0.1.0"
