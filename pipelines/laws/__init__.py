"""Laws: fitted to points of runs, with intervals, and the table of their shapes."""
