"""Tunes models: recipes, runs, and the child processes that compute."""

import mainspring_svckit as mainspring_svckit  # Before grpc; it says why.
