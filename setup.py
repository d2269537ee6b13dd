"""The packages that are installed; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

# pyproject.toml can find packages or place them elsewhere, not both.
outside = find_packages(include=["methods", "methods.*", "datasets", "datasets.*"])
setup(packages=[*find_packages(include=["bench", "bench.*"]), *(f"bench.{name}" for name in outside)])
