"""The microscope: problems small enough to enumerate, where an expectation is a sum and not an estimate."""

from ventaja.lab.algorithms import algorithm_bias
from ventaja.lab.oracle import TabularPolicy, expected_gradient, group_outcomes, trajectory_kl
from ventaja.lab.studies import ESTIMATORS, Bias, Estimator, estimator_bias, kl_gradient_bias

__all__ = [
    "ESTIMATORS",
    "Bias",
    "Estimator",
    "TabularPolicy",
    "algorithm_bias",
    "estimator_bias",
    "expected_gradient",
    "group_outcomes",
    "kl_gradient_bias",
    "trajectory_kl",
]
