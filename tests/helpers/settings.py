"""Small settings that several tests prepare records with."""

from resumable_tf.data.prepare import PrepareSettings

SETTINGS = PrepareSettings(vocab_size=150, target_length=32, rows_per_shard=16)
