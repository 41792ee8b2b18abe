"""The child process that tunes a model; started by mainspring-trainer, knows nothing of services.

It reads one JSON file (`spec.py`), writes files into the folder that it names, and tells its parent by JSON lines
(`progress.py`) how it goes. Everything that decides the result is a function of the specification, so that a run that
was killed and resumed ends with the same bytes as one that was not.
"""
