"""How a report looks: terminal, Markdown and HTML from the same content."""
