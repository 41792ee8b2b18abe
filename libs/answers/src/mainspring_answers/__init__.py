"""The answer path: route, context, prompt, engine, ledger; behind two doors, inference (gRPC) and gateway (HTTP)."""
