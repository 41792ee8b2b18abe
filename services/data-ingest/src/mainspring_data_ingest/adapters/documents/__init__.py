"""HTML, PDF, DOCX and Python code, whose parsers may hang, bloat or crash: they run in a process of their own."""
