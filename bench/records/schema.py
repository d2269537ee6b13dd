"""The schema of rows: columns, key and metrics."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

SCHEMA = 2
COLUMNS = (
    "run", "method", "task", "train", "preset", "seed", "members", "evaluation", "dataset", "variant",
    "metric", "layer", "epoch", "quantile", "attack", "epsilon", "success", "severity", "corruption",
    "crafted_members", "value", "unit", "examples", "config", "commit", "device", "source", "schema",
)  # fmt: skip
# Columns by the version that added them. In rows of an earlier version they are read as empty.
ADDED = {2: ("severity", "corruption")}
KEY = COLUMNS[1 : COLUMNS.index("crafted_members") + 1]
INTEGERS = ("seed", "members", "epoch", "severity", "crafted_members", "examples", "schema")
FLOATS = ("quantile", "epsilon", "value")
MAX_INTEGER = 2**63 - 1  # a reader has 64-bit integers

# Least and greatest possible value of a metric, by unit; others have no limits unless `METRICS` gives them.
LIMITS: dict[str, tuple[float, float]] = {
    "fraction": (0, 1),
    **dict.fromkeys(("nats", "seconds", "gflop", "bytes", "images", "networks"), (0, math.inf)),
}
ANY, POSITIVE, UP_TO_ONE = (-math.inf, math.inf), (0, math.inf), (-1, 1)
ROUNDING = 1e-5  # beyond a limit: sums in float32


class Metric(NamedTuple):
    """One metric: the unit of its rows, which direction is better, and how tables and figures show it.

    direction: `higher`, `lower` or, if neither is better, empty. heading: its name in tables; empty: the
    metric's own. shown: the unit after the heading; factor: converts from the unit of rows to it. decimals:
    None for three significant digits. limits: the least and the greatest possible value in the unit of rows;
    None for those of the unit.
    """

    unit: str
    direction: str = ""
    heading: str = ""
    shown: str = ""
    factor: float = 1
    decimals: int | None = None
    limits: tuple[float, float] | None = None


def _points(heading: str, limits: tuple[float, float] | None = None) -> Metric:
    """A difference of two shares, shown in percentage points."""
    return Metric("fraction", heading=heading, shown="points", factor=100, decimals=1, limits=limits)


# Only names of cost metrics that vary between runs contain seconds, bytes or per_s.
METRICS: dict[str, Metric] = {
    "accuracy": Metric("fraction", "higher", heading="accuracy", shown="%", factor=100, decimals=2),
    "nll_nats": Metric("nats", "lower", heading="NLL", shown="nats", decimals=4, limits=ANY),
    "brier": Metric("1", "lower", heading="Brier", decimals=4, limits=(0, 2)),
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
    "batch_dependence": Metric("1", heading="change with the batch", shown="1e-6", factor=1e6, decimals=1),
    "near_duplicates": Metric("images", heading="near-duplicates", decimals=0),
    "invalid_images": Metric("images", heading="invalid images", decimals=0),
    "constant_images": Metric("images", heading="images of one colour", decimals=0),
    "label_agreement": Metric("fraction", heading="labels that agree", shown="%", factor=100, decimals=1),
    "label_agreement_gap": _points("agreement gap", limits=UP_TO_ONE),
    "swapped_classes": Metric("pairs", heading="swapped classes", decimals=0),
    "class_share_gap": _points("class share gap"),
    "pixel_mean_gap": Metric("1", heading="mean pixel gap", decimals=3),
    "record_share_gap": _points("class shares from record", limits=UP_TO_ONE),
    "record_distance": Metric("1", heading="class means from record", decimals=3),
    "record_agreement_gap": _points("agreement from record", limits=UP_TO_ONE),
    "weight_norm_mean": Metric("1", heading="mean", limits=POSITIVE),
    "weight_norm_sd": Metric("1", heading="sd", limits=POSITIVE),
    "weight_spread": Metric("1", heading="spread", decimals=3, limits=POSITIVE),
    "weight_cosine": Metric("1", heading="cosine", decimals=3, limits=UP_TO_ONE),
    "weight_distance": Metric("1", heading="distance", decimals=3, limits=POSITIVE),
    "weight_distance_aligned": Metric("1", heading="distance, aligned", decimals=3, limits=POSITIVE),
    "disagreement": Metric("fraction", heading="disagreement", shown="%", factor=100, decimals=2),
    "pairwise_kl_nats": Metric("nats", heading="pairwise KL", shown="nats", decimals=4),
    "double_fault": Metric("fraction", "lower", heading="double fault", shown="%", factor=100, decimals=2),
    "effective_networks": Metric("networks", heading="effective networks", decimals=3),
    "success_rate": Metric("fraction", "lower", heading="success", shown="%", factor=100, decimals=1),
    "robust_accuracy": Metric(
        "fraction", "higher", heading="robust accuracy", shown="%", factor=100, decimals=1
    ),
    "fooled_share": Metric("fraction", "lower", heading="fooled", shown="%", factor=100, decimals=1),
    "unmoved_share": Metric("fraction", "lower"),
    "detected_share": Metric("fraction", "higher", heading="detected", shown="%", factor=100, decimals=1),
    "evasion_rate": Metric("fraction", "lower", heading="evasion", shown="%", factor=100, decimals=1),
    "late_gain": Metric("fraction", limits=UP_TO_ONE),
    "detection_threshold_nats": Metric("nats"),
    "fooling_epsilon": Metric("1", "higher", heading="epsilon", decimals=3, limits=POSITIVE),
    "output_sd": Metric("1", heading="sd of outputs", decimals=3, limits=POSITIVE),
    "rmse": Metric("1", "lower", heading="RMSE", decimals=2, limits=POSITIVE),
    "log_likelihood_nats": Metric(
        "nats", "higher", heading="log-likelihood", shown="nats", decimals=3, limits=ANY
    ),
    "band_coverage": Metric(
        "fraction", "higher", heading="target in the band", shown="%", factor=100, decimals=0
    ),
    "band_width": Metric("1", heading="band width", decimals=2, limits=POSITIVE),
    "wasserstein2_to_reference": Metric("1", "lower", heading="W2 to HMC", decimals=2, limits=POSITIVE),
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


def header(version: int) -> tuple[str, ...]:
    """The columns of a version of the schema, in order."""
    later = {name for added, names in ADDED.items() if added > version for name in names}
    return tuple(name for name in COLUMNS if name not in later)


def limits(metric: str) -> tuple[float, float]:
    """The least and the greatest possible value of a metric, infinite where there is none."""
    known = METRICS.get(metric)
    if known is None:
        return ANY
    return known.limits or LIMITS.get(known.unit, ANY)


def check_range(metric: str, value: float) -> None:
    """Raises ValueError for a value beyond the metric's limits by more than rounding; NaN has no range."""
    low, high = limits(metric)
    if value < low - ROUNDING or value > high + ROUNDING:
        raise ValueError(f"{metric} = {value!r}, which is not within [{low:g}, {high:g}]")


def cell_text(column: str, value: Any) -> str:
    """A value as CSV text: integers without a decimal point, floats in the shortest exact form.

    Raises ValueError for what a reader would refuse or find changed: an integer below 0, above `MAX_INTEGER`
    or with a fraction, a number that is not finite, text with control characters, no value at all.
    """
    if value is None or (isinstance(value, str) and value == ""):
        if column == "value":
            raise ValueError("expected a value, found none")
        return ""
    if column in INTEGERS:
        if not (math.isfinite(value) and value == int(value) and 0 <= value <= MAX_INTEGER):
            raise ValueError(f"{column}: expected an integer from 0 to {MAX_INTEGER}, found {value!r}")
        return str(int(value))
    if column in FLOATS:
        if not math.isfinite(value):
            raise ValueError(f"{column}: expected a finite number, found {float(value)!r}")
        return repr(float(value))
    text = str(value)
    if not text.isprintable():  # lines of the file would break, or it could not be encoded
        raise ValueError(f"{column}: expected text without control characters, found {text!r:.80}")
    return text
