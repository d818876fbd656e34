"""Evaluation: simulated clicks on real volumes, metrics, baselines, reports."""
