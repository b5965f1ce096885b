"""Predict from a bundle of archbench, without torch: images in, calibrated probabilities out."""

__version__ = "0.1.0"
