"""The web page for people: what the loop does, what it measured, what it released; a playground with feedback."""
