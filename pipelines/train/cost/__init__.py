"""What answers cost: tokens a second, memory, money."""
