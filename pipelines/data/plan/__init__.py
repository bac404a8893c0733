"""What a corpus will cost, from a trial on a sample."""
