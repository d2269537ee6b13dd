"""Pure functions of predictions and of weights: what an evaluation counts."""
