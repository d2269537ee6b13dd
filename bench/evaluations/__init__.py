"""What is asked of an ensemble: each evaluation is a function (Subject, Streams) -> Result, named here."""

from bench.evaluations import accuracy, adaptive_attacks, attacks, diversity, fooling_epsilon, ood, regression
from bench.evaluations.subject import Result, Subject

EVALUATIONS = {
    "accuracy": accuracy.evaluate,
    "adaptive": adaptive_attacks.evaluate,
    "attack": attacks.evaluate,
    "diversity": diversity.evaluate,
    "fooling-epsilon": fooling_epsilon.evaluate,
    "ood": ood.evaluate,
    "regression": regression.evaluate,
}
# Networks that an evaluation wants drawn, where that is more than the largest size asked for.
DRAWS = {"adaptive": adaptive_attacks.draws, "attack": attacks.draws}

__all__ = ["DRAWS", "EVALUATIONS", "Result", "Subject"]
