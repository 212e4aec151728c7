"""Where runs live: local directories, gs:// and whatever fsspec can reach."""

from resumable_tf.storage.local import LocalStorage
from resumable_tf.storage.object_store import ObjectStorage
from resumable_tf.storage.protocol import Storage
from resumable_tf.storage.url import PathLike, open_storage, path_text, storage_of

__all__ = [
    "LocalStorage",
    "ObjectStorage",
    "PathLike",
    "Storage",
    "open_storage",
    "path_text",
    "storage_of",
]
