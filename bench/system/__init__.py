"""The machine under a run: its files, processors and devices, and where a number came from."""
