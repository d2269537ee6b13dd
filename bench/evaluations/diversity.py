"""Diversity of the largest ensemble: of its weights per layer, and of what its members predict."""

from __future__ import annotations

from bench import diversity
from bench.evaluations.subject import Result, Subject
from bench.records import row
from bench.rng import Streams


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of norms, spread and cosine per layer, and of pairwise disagreement on test images."""
    members = len(subject.ensemble)
    common = {"evaluation": "diversity", "members": members}
    result = Result()
    for layer, values in diversity.weight_statistics(subject.ensemble.weights).items():
        result.rows += [row(name, value, layer=layer, **common) for name, value in values.items()]
    test = subject.test
    differing = diversity.disagreement(subject.logits(test).argmax(-1))
    result.rows.append(row("disagreement", differing, dataset=test.name, examples=len(test), **common))
    return result
