"""Ports of the services behind the door."""
