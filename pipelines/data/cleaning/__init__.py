"""One document at a time, in batches: normalised, named, masked, judged, scored."""
