"""The serving plane: the gRPC door on the answer path, and the controller of deployments and roll-outs."""
