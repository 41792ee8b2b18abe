"""Tunes models: recipes, runs, and the child processes that compute."""
