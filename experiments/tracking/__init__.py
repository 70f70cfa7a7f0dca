"""Weights & Biases: one run per policy of an experiment, in a group of the experiment.

W&B takes a second to import, so it is imported when the first trial is logged.
"""

from experiments.tracking.tracking import Tracking

__all__ = ["Tracking"]
