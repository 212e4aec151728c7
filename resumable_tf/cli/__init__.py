"""The command `resumable-tf`, one file a sub-command; none imports TensorFlow."""
