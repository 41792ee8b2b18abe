"""The ports on Postgres, Triton, the registry and the routing bucket."""
