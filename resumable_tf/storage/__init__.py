"""Where runs live: local directories, gs:// and whatever fsspec can reach."""

from resumable_tf.storage.local import LocalStorage
from resumable_tf.storage.object_store import ObjectStorage
from resumable_tf.storage.protocol import Storage
from resumable_tf.storage.url import open_storage

__all__ = ["LocalStorage", "ObjectStorage", "Storage", "open_storage"]
