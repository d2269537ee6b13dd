"""Compares Bayesian-ensemble methods on the same networks, data and metrics."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ensemble-bench")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+source"
