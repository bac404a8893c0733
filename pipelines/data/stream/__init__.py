"""Token shards to training samples: mixed, ordered, fetched ahead, packed."""
