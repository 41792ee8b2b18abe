"""Documents, chunks, collections and builds; no I/O."""
