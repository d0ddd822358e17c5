"""One thin script per stage: read paths and params, call pricer, write outputs."""
