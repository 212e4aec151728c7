"""What changes during training: its inventory, and snapshots of it."""

from resumable_tf.state.inventory import Entry
from resumable_tf.state.snapshot import Snapshot
from resumable_tf.state.train_state import TrainState

__all__ = ["Entry", "Snapshot", "TrainState"]
