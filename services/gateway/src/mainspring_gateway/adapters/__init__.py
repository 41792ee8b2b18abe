"""The services behind the door, by gRPC."""
