"""How tables, figures and captions look, whatever their numbers."""
