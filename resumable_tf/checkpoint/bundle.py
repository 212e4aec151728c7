"""TensorFlow's own files: written, committed and read back.

    bundles = BundleWriter()
    manifest = bundles.write(snapshot, storage, draft)     # any thread
    with open_bundle(storage, manifest) as path:           # verified, on a local disk
        state.apply(path, ...)

What TensorFlow says of the objects is learned from a bundle of empty values, which
`tf.train.CheckpointManager` writes to memory. The bundle itself is then written here,
byte for byte as TensorFlow would. Where a dtype is one of those that only TensorFlow
knows how to write, `CheckpointManager` writes it all: then the commit happens in the
middle of its `save`, after the data and before TensorFlow's own list of checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from resumable_tf.checkpoint.data_files import SHARD_BYTES, ShardBySize, describe
from resumable_tf.checkpoint.direct_bundle import can_write, write_direct
from resumable_tf.checkpoint.integrity import read_file, verify
from resumable_tf.checkpoint.layout import (
    CHECKPOINTS,
    bundle_name,
    bundle_prefix,
    manifest_name,
)
from resumable_tf.checkpoint.manifest import FileRecord, Manifest, TensorSpec
from resumable_tf.checkpoint.scratch import scratch_directory
from resumable_tf.errors import SaveError
from resumable_tf.state.leaf import Leaf, checkpoint_options, host_device
from resumable_tf.state.snapshot import Snapshot, Structure
from resumable_tf.storage import Storage
from resumable_tf.storage.literal_path import literal_path
from resumable_tf.storage.transfer import Upload, in_parallel, upload_files

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SAVE_COUNTER = "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
_BOOKKEEPING = {_OBJECT_GRAPH, _SAVE_COUNTER}


class BundleWriter:
    """Writes and commits checkpoints, one at a time."""

    def __init__(self) -> None:
        """Knows no structure yet."""
        self._structure: Structure | None = None
        self._object_graph: Any = None
        self._order: list[str] = []

    def write(
        self,
        snapshot: Snapshot,
        storage: Storage,
        draft: Manifest,
        *,
        check_right: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """Writes and commits a checkpoint.

        Args:
            snapshot: The values; let go of as soon as they are written.
            storage: The run directory. If it is no local one, the bundle is written to
                a temporary directory and uploaded.
            draft: The manifest, but for files, inventory, optimizers and topology.
            check_right: Called right before the bundle is uploaded and again before
                the manifest is written; what it raises keeps both from happening.

        Returns:
            The manifest as committed.

        Raises:
            SaveError: If the bundle does not hold what the snapshot does.
        """
        committed: list[Manifest] = []
        storage.make_dirs(CHECKPOINTS)
        with contextlib.ExitStack() as stack:
            directory = storage.local_path(CHECKPOINTS)
            uploads = directory is None
            if directory is None:
                directory = stack.enter_context(scratch_directory())
            directory = stack.enter_context(literal_path(directory))
            prefix = os.path.join(directory, bundle_name(draft.step))

            def commit(_: str) -> None:
                # What is written is not held any longer: a variable that is updated
                # from here on need not be copied first.
                snapshot.release()
                inventory = _read_inventory(prefix)
                _compare(inventory, snapshot)
                files = _store(prefix, storage, fence=check_right if uploads else None)
                manifest = dataclasses.replace(
                    draft,
                    files=files,
                    inventory=inventory,
                    optimizers=snapshot.optimizers(),
                    topology={"num_replicas": snapshot.num_replicas()},
                )
                check_right()
                storage.create(manifest_name(draft.step), manifest.to_bytes())
                committed.append(manifest)

            with tf.device(host_device()):
                self._write(
                    snapshot, prefix, step=draft.step, uploads=uploads, commit=commit
                )
        return committed[0]

    def _write(
        self,
        snapshot: Snapshot,
        prefix: str,
        *,
        step: int,
        uploads: bool,
        commit: Callable[[str], None],
    ) -> None:
        if not can_write(snapshot.dtypes()):
            _save(snapshot.checkpoint(), prefix, step=step, commit=commit)
            return
        structure = snapshot.structure()
        if structure != self._structure:
            self._object_graph, self._order = _describe(snapshot)
            self._structure = structure
        values = snapshot.take_values()
        values[_OBJECT_GRAPH] = self._object_graph
        values[_SAVE_COUNTER] = tf.constant(step, tf.int64)
        ordered = {key: values.pop(key) for key in self._order}
        # What is uploaded next is better in the page cache.
        write_direct(prefix, ordered, max_bytes=SHARD_BYTES, bypasses_cache=not uploads)
        commit(prefix)


@contextlib.contextmanager
def open_bundle(storage: Storage, manifest: Manifest) -> Iterator[str]:
    """Verifies a bundle and yields its prefix on a local disk.

    Args:
        storage: The run directory.
        manifest: A committed checkpoint.

    Yields:
        The prefix, as `tf.train.Checkpoint.restore` takes it.

    Raises:
        CheckpointCorruptError: If a file is missing, cut off or damaged.
    """
    local = storage.local_path(bundle_prefix(manifest.step))
    if local is not None:
        for record in manifest.files:
            verify(record, read_file(storage, record))
        with literal_path(os.path.dirname(local)) as directory:
            yield os.path.join(directory, bundle_name(manifest.step))
        return
    with scratch_directory() as scratch, literal_path(scratch) as directory:

        def download(record: FileRecord) -> None:
            with open(os.path.join(directory, record.name), "wb") as copy:
                verify(record, _tee(read_file(storage, record), copy.write))

        in_parallel(download, manifest.files)
        yield os.path.join(directory, bundle_name(manifest.step))


def _describe(snapshot: Snapshot) -> tuple[Any, list[str]]:
    """Returns what TensorFlow says of the objects, and its order of their values."""
    directory = f"ram://resumable-tf-{uuid.uuid4().hex}"
    prefix = f"{directory}/{bundle_name(0)}"
    checkpoint = snapshot.checkpoint(is_empty=True)
    try:
        order = _save(checkpoint, prefix, step=0, commit=lambda _: None)
        [graph] = tf.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=[_OBJECT_GRAPH],
            shape_and_slices=[""],
            dtypes=[tf.string],
        )
    finally:
        if tf.io.gfile.exists(directory):
            tf.io.gfile.rmtree(directory)
    return graph, order


def _save(
    checkpoint: Any, prefix: str, *, step: int, commit: Callable[[str], None]
) -> list[str]:
    """Lets TensorFlow write a bundle; returns its keys in the order of the bytes."""
    sharding = ShardBySize(SHARD_BYTES)
    options = checkpoint_options()
    options.experimental_write_callbacks = [commit]
    options.experimental_sharding_callback = sharding
    # TensorFlow adds one: the counter in the bundle equals the step.
    checkpoint.save_counter.assign(step - 1)
    directory = os.path.dirname(prefix)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=None)
    manager.save(checkpoint_number=step, options=options)
    return sharding.keys


def _store(
    prefix: str, storage: Storage, *, fence: Callable[[], None] | None
) -> tuple[FileRecord, ...]:
    """Makes the files of a bundle durable where they belong, and describes them.

    Args:
        prefix: The bundle's.
        storage: Where they belong.
        fence: Called right before they are uploaded: writing takes long enough for
            another process to have taken over. None if they are there already.
    """
    described = describe(prefix)
    files = [
        Upload(f"{CHECKPOINTS}/{record.name}", path, record.crc32c)
        for path, record in described
    ]
    if fence is not None:
        fence()
        upload_files(storage, files)
    else:
        for file in files:
            storage.sync(file.name)
    return tuple(record for _, record in described)


def _read_inventory(prefix: str) -> dict[str, TensorSpec]:
    reader = tf.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    return {
        key: TensorSpec(shape=tuple(shape), dtype=dtypes[key].name)
        for key, shape in reader.get_variable_to_shape_map().items()
        if key not in _BOOKKEEPING
    }


def _compare(inventory: dict[str, TensorSpec], snapshot: Snapshot) -> None:
    """Checks that all was written that was captured.

    Raises:
        SaveError: If a key, a shape or a dtype differs.
    """
    leaves = snapshot.leaves()
    differing = set(inventory) ^ set(leaves)
    differing |= {
        key
        for key, leaf in leaves.items()
        if key not in differing and not _fits(inventory[key], leaf)
    }
    if differing:
        raise SaveError(
            f"the bundle does not hold what was captured: {sorted(differing)[:5]}"
        )


def _fits(spec: TensorSpec, leaf: Leaf) -> bool:
    return spec.dtype == leaf.dtype and leaf.shape in (None, spec.shape)


def _tee(chunks: Iterable[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
    for chunk in chunks:
        write(chunk)
        yield chunk
