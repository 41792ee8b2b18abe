"""Turns text into vectors, and documents into collections that can be searched."""
