"""From a command to rows: selecting cells, distributing them to workers, running each."""
