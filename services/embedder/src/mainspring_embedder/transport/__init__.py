"""gRPC in: translate, call one use case, translate back."""
