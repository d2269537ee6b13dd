"""Metrics: pure functions of predictions and of weights."""
