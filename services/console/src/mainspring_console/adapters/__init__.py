"""The services behind the page, by gRPC, in the name of the person who looks."""
