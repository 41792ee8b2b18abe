"""Contract suites: one class per port, run over the fake and over the real thing by subclasses that only give a
fixture.
"""
