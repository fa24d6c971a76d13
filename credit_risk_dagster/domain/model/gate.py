"""What speaks against letting a model score the stream."""

from collections.abc import Mapping
from typing import Any

from credit_risk_dagster.domain.pd import Coefficients

MIN_BADS = 100  # with fewer, every figure of the gate has an interval that says nothing
_SLOPE = (0.5, 1.5)
_RATIO = (0.8, 1.25)


def objections(row: Mapping[str, Any], coefficients: Coefficients | None = None) -> list[str]:
    """What in its benchmark and its coefficients speaks against a model; empty when nothing.

    Args:
        row: the model's row of `model_benchmarks`.
        coefficients: by which it would score.

    There must be enough bad loans. The PD must rank better than chance, find no fewer bad loans
    than the rules do, and be a probability: 0.8 to 1.25 times as many bad loans expected as there
    were, closer to what came than the bad rate of everybody is (Brier skill), calibration slope 0.5
    to 1.5. It is asked on later loans than the model was fitted to where the sample has months: on
    its own ones, folds with their share of the bad loans let no ratio be wrong. No number may move
    the PD against the direction that the field expects.
    """
    late, calibrated = row["out_of_time"], row["calibration"]
    if calibrated and late:
        calibrated = late.get("calibration")
    if not calibrated or "brier_skill" not in calibrated:
        return ["its benchmark did not ask whether its PD is a probability: train it again"]
    of = f"of the loans from {late['month']} on, " if late else ""
    measured = late or row
    found = []
    if row["bads"] < MIN_BADS:
        found.append(f"{row['bads']} bad loans are too few to judge it, {MIN_BADS} are needed")
    if measured["auc_low"] <= 0.5:
        found.append(
            f"{of}its AUC of {measured['auc']:.3f} could be chance (interval from "
            f"{measured['auc_low']:.3f})"
        )
    comparison = row["comparison"]
    if comparison and comparison["difference"] < 0:
        found.append(
            f"it finds {100 * comparison['model']['recall']:.0f} % of the bad loans, the rules "
            f"{100 * comparison['rules']['recall']:.0f} % at the same share flagged"
        )
    ratio, loans = calibrated["ratio"], measured["rows"]
    if not _RATIO[0] <= ratio <= _RATIO[1]:
        found.append(
            f"{of}it expects {calibrated['mean_pd'] * loans:.1f} bad and {measured['bads']} were: "
            f"{ratio:.2f} times as many, 95 % interval {calibrated['ratio_low']:.2f} to "
            f"{calibrated['ratio_high']:.2f}, not 0.8 to 1.25"
        )
    if calibrated["brier_skill"] <= 0:
        found.append(
            f"{of}its Brier skill is {calibrated['brier_skill']:.4f}: saying the bad rate of "
            "everybody is no worse"
        )
    if not _SLOPE[0] <= row["calibration"]["slope"] <= _SLOPE[1]:
        found.append(f"its calibration slope is {row['calibration']['slope']:.2f}, not 0.5 to 1.5")
    if coefficients and (against := coefficients.against_the_field()):
        found.append(f"{', '.join(against)} moves its PD against what the field expects")
    return found
