"""The interface between runs and the report: the schema of rows, and the files that store them."""
