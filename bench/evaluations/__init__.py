"""What is asked of an ensemble: each evaluation is a function (Subject, Streams) -> Result, named here."""

from bench.evaluations import accuracy, diversity, ood
from bench.evaluations.subject import Result, Subject

EVALUATIONS = {
    "accuracy": accuracy.evaluate,
    "diversity": diversity.evaluate,
    "ood": ood.evaluate,
}

__all__ = ["EVALUATIONS", "Result", "Subject"]
