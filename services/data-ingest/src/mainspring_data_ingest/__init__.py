"""Turns files into immutable dataset versions."""
