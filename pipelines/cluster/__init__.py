"""Ray: shards of data over tasks, training over a group of workers; `outside/` reaches a cluster from elsewhere."""
