"""Deployments, roll-outs and traffic; no I/O."""
