"""What a row is: its columns, its key, and the unit and direction of every metric."""

from __future__ import annotations

from typing import Any

SCHEMA = 1
COLUMNS = (
    "run", "method", "task", "train", "preset", "seed", "members", "evaluation", "dataset", "variant",
    "metric", "layer", "epoch", "quantile", "attack", "epsilon", "success", "crafted_members",
    "value", "unit", "examples", "config", "commit", "device", "source", "schema",
)  # fmt: skip
KEY = COLUMNS[1 : COLUMNS.index("crafted_members") + 1]
INTEGERS = ("seed", "members", "epoch", "crafted_members", "examples", "schema")
FLOATS = ("quantile", "epsilon", "value")

# metric -> (unit, direction). Cost metrics, and only they, contain seconds, bytes or per_s.
METRICS: dict[str, tuple[str, str]] = {
    "accuracy": ("fraction", "higher"),
    "nll_nats": ("nats", "lower"),
    "brier": ("1", "lower"),
    "ece": ("fraction", "lower"),
    "adaptive_ece": ("fraction", "lower"),
    "aurc": ("fraction", "lower"),
    "accuracy_draw_sd": ("fraction", ""),
    "entropy_nats": ("nats", ""),
    "expected_entropy_nats": ("nats", ""),
    "mutual_information_nats": ("nats", ""),
    "auroc": ("fraction", "higher"),
    "auroc_mutual_information": ("fraction", "higher"),
    "auroc_max_softmax": ("fraction", "higher"),
    "aupr_out": ("fraction", "higher"),
    "aupr_in": ("fraction", "higher"),
    "fpr95_id_positive": ("fraction", "lower"),
    "fpr95_ood_positive": ("fraction", "lower"),
    "auroc_draw_sd": ("fraction", ""),
    "shared_images": ("images", ""),
    "weight_norm_mean": ("1", ""),
    "weight_norm_sd": ("1", ""),
    "weight_spread": ("1", ""),
    "weight_cosine": ("1", ""),
    "weight_distance": ("1", ""),
    "weight_distance_aligned": ("1", ""),
    "disagreement": ("fraction", ""),
    "pairwise_kl_nats": ("nats", ""),
    "double_fault": ("fraction", "lower"),
    "effective_networks": ("networks", ""),
    "success_rate": ("fraction", "lower"),
    "fooled_share": ("fraction", "lower"),
    "unmoved_share": ("fraction", "lower"),
    "detected_share": ("fraction", "higher"),
    "evasion_rate": ("fraction", "lower"),
    "late_gain": ("fraction", ""),
    "detection_threshold_nats": ("nats", ""),
    "fooling_epsilon": ("1", "higher"),
    "rmse": ("1", "lower"),
    "log_likelihood_nats": ("nats", "higher"),
    "band_coverage": ("fraction", "higher"),
    "band_width": ("1", ""),
    "wasserstein2_to_reference": ("1", "lower"),
    "fit_seconds": ("seconds", "lower"),
    "sample_seconds": ("seconds", "lower"),
    "predict_seconds": ("seconds", "lower"),
    "peak_memory_bytes": ("bytes", "lower"),
    "loss": ("1", "lower"),
}


def row(metric: str, value: float, **columns: Any) -> dict[str, Any]:
    """A row of one number; columns not named are empty, the unit comes from `METRICS`."""
    strange = set(columns) - set(COLUMNS)
    if strange:
        raise ValueError(f"expected columns of the schema, found {sorted(strange)}")
    unit = METRICS.get(metric, ("1", ""))[0]
    return {"unit": unit, **columns, "metric": metric, "value": value}


def cell_text(column: str, value: Any) -> str:
    """How a value is written: integers without a point, numbers by shortest round trip."""
    if value is None or value == "":
        return ""
    if column in INTEGERS:
        return str(int(value))
    if column in FLOATS:
        return repr(float(value))
    return str(value)
