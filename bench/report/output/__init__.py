"""Output files: the page, Markdown, CSV and images."""
