"""gRPC and events in: translate, call one use case, translate back."""
