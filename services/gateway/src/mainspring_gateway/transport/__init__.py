"""HTTP: translate, call the answer path or a service, translate back."""
