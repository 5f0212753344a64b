"""Accuracy of a trained model on episodes, and its calibration."""
