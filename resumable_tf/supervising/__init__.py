"""Starts a training, watches it, and starts it again; knows nothing of TensorFlow."""
