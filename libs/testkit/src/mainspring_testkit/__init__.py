"""Real servers, fixtures and tiny models for tests."""
