"""The command `resumable-tf`, also as `python -m resumable_tf`."""

from resumable_tf.cli.app import app

if __name__ == "__main__":
    app()
