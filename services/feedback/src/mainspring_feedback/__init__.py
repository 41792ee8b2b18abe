"""Keeps what people say of answers, and turns the loop when there is enough of it."""
