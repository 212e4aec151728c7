"""What it means that a checkpoint can't be read: it is damaged, gone, or neither.

    with reading(catalog, step):
        info = catalog.info(step)
        with open_bundle(storage, info.manifest) as path:
            state.apply(path, ...)

The training that a run belongs to may delete a checkpoint while another process reads
it, also after its files were verified: TensorFlow reads them once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.catalog_files import is_lost, no_file_means_damage
from resumable_tf.checkpoint.tensorflow_errors import as_os_errors
from resumable_tf.errors import CheckpointCorruptError


@contextlib.contextmanager
def reading(catalog: Catalog, step: int) -> Iterator[None]:
    """Tells a checkpoint that can't be read from a storage that fails.

    Args:
        catalog: Where it is.
        step: Which one.

    Raises:
        CheckpointCorruptError: If it was deleted meanwhile, or the disk has lost a part
            of it. Any other error stays as it is.
    """
    try:
        with as_os_errors(), no_file_means_damage("it"):
            yield
    except CheckpointCorruptError:
        raise
    except (OSError, tf.errors.OpError) as error:
        # Deleting begins with the manifest.
        if step not in catalog.steps():
            raise CheckpointCorruptError("it was deleted meanwhile") from error
        if not isinstance(error, OSError) or not is_lost(error):
            raise
        raise CheckpointCorruptError(f"it can't be read: {error}") from error
