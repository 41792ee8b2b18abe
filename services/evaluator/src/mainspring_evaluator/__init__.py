"""Measures model versions through the plane that serves them."""
