"""From a command to rows: which cells there are, who runs them, and how each runs."""
