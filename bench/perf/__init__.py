"""The speed benchmark: the same work by each way in one run, beside two ceilings of that run."""

from bench.perf.measuring import Measurement, about, documents, measure, table

__all__ = ["Measurement", "about", "documents", "measure", "table"]
