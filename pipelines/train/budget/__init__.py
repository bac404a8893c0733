"""What a run will cost, by arithmetic: FLOPs, memory, bytes, hours, money."""
