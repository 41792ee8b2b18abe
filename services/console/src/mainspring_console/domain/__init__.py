"""How things are put for people; pure."""
