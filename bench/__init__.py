"""Benchmarks of Mainspring: each bar measured on the real thing, both sides of a comparison in one run."""
