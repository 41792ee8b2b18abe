"""What OpenAI's names mean here; pure."""
