"""Influence functions: what a training point bears on a prediction.

`functions` has the public ones; `risk` and `last_layer` the training risk they differentiate,
`solvers`, `ekfac` and `torch_influence` what solves with its Hessian; `trust` compares their
predictions with networks that were trained again.
"""

from lib.influence.functions import (
    METHODS,
    NotPositiveDefinite,
    gradient_norms,
    gradients,
    group_influence,
    influence,
    parameter_influence,
    perturbation_influence,
    removal_effect,
    s_test,
    scores,
    self_influence,
    smallest_eigenvalue,
)
from lib.influence.trust import (
    agreement,
    correlation,
    leave_one_out,
    linear_datamodelling_score,
    minimised,
    rank_correlation,
    retrained_on_subsets,
)

__all__ = [
    "METHODS", "NotPositiveDefinite", "agreement", "correlation", "gradient_norms", "gradients",
    "group_influence", "influence", "leave_one_out", "linear_datamodelling_score", "minimised",
    "parameter_influence", "perturbation_influence", "rank_correlation", "removal_effect",
    "retrained_on_subsets", "s_test", "scores", "self_influence", "smallest_eigenvalue",
]  # fmt: skip
