"""Run as a program without this project: TensorFlow's own gs:// client at work.

    python tensorflow_reads.py gs://bucket/run gs://bucket/other

Reads the newest checkpoint of the first; saves, prunes and restores checkpoints of its
own in the second. Prints what it found as JSON.
"""

from __future__ import annotations

import json
import sys

import tensorflow as tf

run, other = sys.argv[1:]
path = tf.train.latest_checkpoint(f"{run}/checkpoints")
reader = tf.train.load_checkpoint(path)
weights = reader.get_tensor("small/weights/.ATTRIBUTES/VARIABLE_VALUE")

variable = tf.Variable(tf.random.normal([2**20]))
checkpoint = tf.train.Checkpoint(variable=variable)
manager = tf.train.CheckpointManager(checkpoint, other, max_to_keep=2)
for _ in range(3):
    manager.save()
expected = variable.numpy()
variable.assign(tf.zeros_like(variable))
checkpoint.restore(manager.latest_checkpoint).assert_consumed()
tf.io.gfile.rename(f"{other}/checkpoint", f"{other}/moved")
found = {
    "path": path,
    "weights": weights.tolist(),
    "is_restored": bool((variable.numpy() == expected).all()),
    "names": sorted(tf.io.gfile.listdir(other)),
}
print(json.dumps(found))
