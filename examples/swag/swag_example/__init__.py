"""SWAG as a package outside of the suite: the entry point of `pyproject.toml` imports this module."""

from bench.registry import add_method

add_method("swag-example", "swag_example.swag:SWAG")
