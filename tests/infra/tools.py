"""Where the infrastructure lies; which programs its tests need is said by `tests/programs.py`."""

from pathlib import Path

from tests.programs import missing, need

__all__ = ["PROJECT", "TERRAFORM", "missing", "need"]

PROJECT = Path(__file__).parent.parent.parent
TERRAFORM = PROJECT / "infra" / "terraform"
