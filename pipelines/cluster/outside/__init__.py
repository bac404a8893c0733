"""A cluster as it is seen from another machine: what is sent to it, which machines it has, the job that runs there."""
