"""The demo: the loop turned twice on the Python code of this machine.

The task is to write the one-line summary of a Python function or class. The examples are read from code that is
installed here (or from a folder of the user's own), so they are real, many, and nobody's copy. What people would say of
the answers is known too: the author's own summary of entries that the model never saw in training is given as a
correction, and the demo says so.
"""
