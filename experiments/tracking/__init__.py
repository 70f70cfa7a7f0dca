"""Weights & Biases: what an experiment logs, runs that go on where an earlier command stopped, tables, the report."""

from experiments.tracking.experiment import Tracking

__all__ = ["Tracking"]
