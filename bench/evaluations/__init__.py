"""Evaluations of an ensemble: functions (Subject, Streams) -> Result, listed here by name."""

from bench.evaluations import (
    accuracy,
    adaptive_attacks,
    attacks,
    diversity,
    fooling_epsilon,
    ood,
    regression,
    shift,
)
from bench.evaluations.subject import Result, Subject

EVALUATIONS = {
    "accuracy": accuracy.evaluate,
    "adaptive": adaptive_attacks.evaluate,
    "attack": attacks.evaluate,
    "diversity": diversity.evaluate,
    "fooling-epsilon": fooling_epsilon.evaluate,
    "ood": ood.evaluate,
    "regression": regression.evaluate,
    "shift": shift.evaluate,
}
# The number of networks an evaluation needs, if it may exceed the largest requested size.
DRAWS = {"adaptive": adaptive_attacks.draws, "attack": attacks.draws}

__all__ = ["DRAWS", "EVALUATIONS", "Result", "Subject"]
