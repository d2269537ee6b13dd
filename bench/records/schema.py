"""The schema of rows: columns, key and metrics."""

from __future__ import annotations

from typing import Any, NamedTuple

SCHEMA = 1
COLUMNS = (
    "run", "method", "task", "train", "preset", "seed", "members", "evaluation", "dataset", "variant",
    "metric", "layer", "epoch", "quantile", "attack", "epsilon", "success", "crafted_members",
    "value", "unit", "examples", "config", "commit", "device", "source", "schema",
)  # fmt: skip
KEY = COLUMNS[1 : COLUMNS.index("crafted_members") + 1]
INTEGERS = ("seed", "members", "epoch", "crafted_members", "examples", "schema")
FLOATS = ("quantile", "epsilon", "value")


class Metric(NamedTuple):
    """One metric: the unit of its rows, which direction is better, and how tables and figures show it.

    direction: `higher`, `lower` or, if neither is better, empty. heading: its name in tables; empty: the
    metric's own. shown: the unit after the heading; factor: converts from the unit of rows to it. decimals:
    None for three significant digits.
    """

    unit: str
    direction: str = ""
    heading: str = ""
    shown: str = ""
    factor: float = 1
    decimals: int | None = None


# Only names of cost metrics that vary between runs contain seconds, bytes or per_s.
METRICS: dict[str, Metric] = {
    "accuracy": Metric("fraction", "higher", heading="accuracy", shown="%", factor=100, decimals=2),
    "nll_nats": Metric("nats", "lower", heading="NLL", shown="nats", decimals=4),
    "brier": Metric("1", "lower", heading="Brier", decimals=4),
    "ece": Metric("fraction", "lower", heading="ECE", decimals=4),
    "adaptive_ece": Metric("fraction", "lower", heading="adaptive ECE", decimals=4),
    "aurc": Metric("fraction", "lower", heading="AURC", decimals=5),
    "accuracy_draw_sd": Metric("fraction"),
    "entropy_nats": Metric("nats", heading="entropy", shown="nats", decimals=3),
    "expected_entropy_nats": Metric("nats"),
    "mutual_information_nats": Metric("nats"),
    "auroc": Metric("fraction", "higher", heading="AUROC", decimals=4),
    "auroc_mutual_information": Metric("fraction", "higher", heading="AUROC, mutual information", decimals=4),
    "auroc_max_softmax": Metric("fraction", "higher", heading="AUROC, max softmax", decimals=4),
    "aupr_out": Metric("fraction", "higher", heading="AUPR out", decimals=4),
    "aupr_in": Metric("fraction", "higher", heading="AUPR in", decimals=4),
    "fpr95_id_positive": Metric("fraction", "lower", heading="outliers accepted at 95 % TPR", decimals=4),
    "fpr95_ood_positive": Metric("fraction", "lower", heading="inliers rejected at 95 % TPR", decimals=4),
    "auroc_draw_sd": Metric("fraction"),
    "accepted_accuracy": Metric("fraction", "higher", shown="%", factor=100, decimals=2),
    "shared_images": Metric("images", heading="outliers among the inliers", decimals=0),
    "weight_norm_mean": Metric("1", heading="mean"),
    "weight_norm_sd": Metric("1", heading="sd"),
    "weight_spread": Metric("1", heading="spread", decimals=3),
    "weight_cosine": Metric("1", heading="cosine", decimals=3),
    "weight_distance": Metric("1", heading="distance", decimals=3),
    "weight_distance_aligned": Metric("1", heading="distance, aligned", decimals=3),
    "disagreement": Metric("fraction", heading="disagreement", shown="%", factor=100, decimals=2),
    "pairwise_kl_nats": Metric("nats", heading="pairwise KL", shown="nats", decimals=4),
    "double_fault": Metric("fraction", "lower", heading="double fault", shown="%", factor=100, decimals=2),
    "effective_networks": Metric("networks", heading="effective networks", decimals=3),
    "success_rate": Metric("fraction", "lower", heading="success", shown="%", factor=100, decimals=1),
    "fooled_share": Metric("fraction", "lower", heading="fooled", shown="%", factor=100, decimals=1),
    "unmoved_share": Metric("fraction", "lower"),
    "detected_share": Metric("fraction", "higher", heading="detected", shown="%", factor=100, decimals=1),
    "evasion_rate": Metric("fraction", "lower", heading="evasion", shown="%", factor=100, decimals=1),
    "late_gain": Metric("fraction"),
    "detection_threshold_nats": Metric("nats"),
    "fooling_epsilon": Metric("1", "higher", heading="epsilon", decimals=3),
    "output_sd": Metric("1", heading="sd of outputs", decimals=3),
    "rmse": Metric("1", "lower", heading="RMSE", decimals=2),
    "log_likelihood_nats": Metric("nats", "higher", heading="log-likelihood", shown="nats", decimals=3),
    "band_coverage": Metric(
        "fraction", "higher", heading="target in the band", shown="%", factor=100, decimals=0
    ),
    "band_width": Metric("1", heading="band width", decimals=2),
    "wasserstein2_to_reference": Metric("1", "lower", heading="W2 to HMC", decimals=2),
    "fit_seconds": Metric("seconds", "lower", heading="fit", shown="s"),
    "fit_cpu_seconds": Metric("seconds", "lower", heading="fit, CPU time", shown="s"),
    "trial_cpu_seconds": Metric("seconds", "lower", heading="trial, CPU time", shown="s"),
    "fit_gflop": Metric("gflop", "lower", heading="fit", shown="GFLOP"),
    "sample_seconds": Metric("seconds", "lower", heading="sample", shown="s"),
    "predict_seconds": Metric("seconds", "lower", heading="predict", shown="s"),
    "predict_cpu_seconds": Metric("seconds", "lower", heading="predict, CPU time", shown="s"),
    "peak_memory_bytes": Metric(
        "bytes", "lower", heading="peak memory", shown="MiB", factor=1 / 2**20, decimals=1
    ),
    "loss": Metric("1", "lower"),
    # Computed by the report from other rows; not written by runs.
    "accuracy_single": Metric(
        "fraction", "higher", heading="accuracy, one network", shown="%", factor=100, decimals=2
    ),
    "accepted_accuracy_99": Metric(
        "fraction", "higher", heading="accuracy, 1 % rejected", shown="%", factor=100, decimals=2
    ),
    "accepted_accuracy_95": Metric(
        "fraction", "higher", heading="accuracy, 5 % rejected", shown="%", factor=100, decimals=2
    ),
    "accepted_accuracy_90": Metric(
        "fraction", "higher", heading="accuracy, 10 % rejected", shown="%", factor=100, decimals=2
    ),
    "itself_auroc": Metric("fraction", heading="test set against itself, AUROC", decimals=4),
    "shuffled_accuracy": Metric(
        "fraction", heading="accuracy on shuffled labels", shown="%", factor=100, decimals=1
    ),
    "uniform_entropy_nats": Metric(
        "nats", heading="entropy of equal probabilities", shown="nats", decimals=6
    ),
    "entropy_in_nats": Metric("nats", heading="entropy in", shown="nats", decimals=3),
    "entropy_out_nats": Metric("nats", heading="entropy out", shown="nats", decimals=3),
    "ks_distance": Metric("1", heading="KS distance", decimals=4),
    "wasserstein_nats": Metric("nats", heading="Wasserstein-1", shown="nats", decimals=3),
    "dkw_half_width": Metric("1", heading="DKW half-width", decimals=4),
    "weight_norm_ratio": Metric("1", heading="sd/mean", decimals=3),
}


def row(metric: str, value: float, **columns: Any) -> dict[str, Any]:
    """A row of one number; omitted columns are empty, the unit comes from `METRICS`."""
    strange = set(columns) - set(COLUMNS)
    if strange:
        raise ValueError(f"expected columns of the schema, found {sorted(strange)}")
    unit = METRICS[metric].unit if metric in METRICS else "1"
    return {"unit": unit, **columns, "metric": metric, "value": value}


def cell_text(column: str, value: Any) -> str:
    """A value as CSV text: integers without a decimal point, floats in the shortest exact form."""
    if value is None or value == "":
        return ""
    if column in INTEGERS:
        return str(int(value))
    if column in FLOATS:
        return repr(float(value))
    return str(value)
