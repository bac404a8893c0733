"""What commands share while they work: the session, training stages alone or in sweeps and trees, what comes next."""
