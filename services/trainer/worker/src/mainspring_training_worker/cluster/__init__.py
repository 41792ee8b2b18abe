"""A run on a Ray cluster: the process beside the trainer sends files there, has the same worker run on nodes, and
relays what it tells.

Nothing that decides a run's result is here. Nodes need this package and no access to anything: inputs and results
travel through this process, by digest, and it has no more rights than the worker that runs beside the trainer.
"""
