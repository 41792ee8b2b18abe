"""What a row is, where it goes, and what makes a version; no I/O."""
