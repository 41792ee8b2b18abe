"""The catalogue of models, their versions and releases, and the gate between them."""
