"""Mainspring's public Python client, the command `mainspring`, and the local stack."""
