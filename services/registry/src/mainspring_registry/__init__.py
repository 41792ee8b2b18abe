"""The catalogue of models, their versions and releases, and the gate between them."""

import mainspring_svckit as mainspring_svckit  # Before grpc; it says why.
