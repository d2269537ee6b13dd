"""The appearance of tables, figures and captions."""
