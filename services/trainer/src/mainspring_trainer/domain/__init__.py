"""What a recipe and a run are; no I/O."""
