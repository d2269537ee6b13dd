"""What is asked of an ensemble: each evaluation is a function (Subject, Streams) -> Result, named here."""

from bench.evaluations import accuracy, adaptive, attack, diversity, fooling, ood, regression
from bench.evaluations.subject import Result, Subject

EVALUATIONS = {
    "accuracy": accuracy.evaluate,
    "adaptive": adaptive.evaluate,
    "attack": attack.evaluate,
    "diversity": diversity.evaluate,
    "fooling-epsilon": fooling.evaluate,
    "ood": ood.evaluate,
    "regression": regression.evaluate,
}
# Networks that an evaluation wants drawn, where that is more than the largest size asked for.
DRAWS = {"adaptive": adaptive.draws, "attack": attack.draws}

__all__ = ["DRAWS", "EVALUATIONS", "Result", "Subject"]
