"""Prediction: labels and confidence of images of any size."""

from scenewise.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
