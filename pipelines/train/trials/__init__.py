"""Small runs, one after another in the same processes: how one is run there, and what is known of it afterwards."""
