"""The HTTP door: OpenAI's API on the answer path, and feedback."""
