"""What is written: the page, Markdown, CSV and images."""
