"""Guard policies, applied: `guard` compiles a policy and runs it over questions and over answers while they come."""
