"""Turns files into immutable dataset versions."""

import mainspring_svckit as mainspring_svckit  # Before grpc; it says why.
