"""What crosses from a run to the report: the schema of rows, and the files that hold them."""
