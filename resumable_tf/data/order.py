"""The order of training rows: permutations without state.

    permutation(5, key=order_key(seed=1, purpose="rows", counter=3))

Which row is read at which step is a pure function of (seed, step): nothing is
drawn, so nothing has to be saved, and any position can be computed directly. The
same function exists in NumPy and as TensorFlow operations (for graphs that run on
hosts without Python); both give the same bits, on every version.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def base_key(seed: int, purpose: str) -> int:
    """Returns a 32-bit key for one purpose of a run's seed."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def order_key(*, seed: int, purpose: str, counter: int) -> int:
    """Returns the 32-bit key of permutation number `counter` of a purpose."""
    return int(fold_in(np.int64(base_key(seed, purpose)), np.int64(counter)))


def _mix(x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Mixes 32-bit values held in int64: the finaliser of MurmurHash3 (Appleby).

    Each product of a 32-bit and a 31-bit number fits into int64, so that no
    overflow can differ between NumPy and TensorFlow.
    """
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    return x ^ (x >> 16)


def fold_in(
    key: npt.NDArray[np.int64], counter: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Returns a new 32-bit key for each counter, of the same shape."""
    high, low = counter >> 32, counter & _MASK
    return _mix(_mix((key + _GOLDEN * (1 + (high & 0xFFFF))) & _MASK) ^ _mix(low))


def permutation(size: int, *, key: int) -> npt.NDArray[np.int64]:
    """Returns the permutation of `range(size)` that belongs to `key`."""
    hashes = fold_in(np.int64(key), np.arange(size, dtype=np.int64))
    return np.argsort(hashes, kind="stable")


def _mix_tf(x: tf.Tensor) -> tf.Tensor:
    def shift_xor(value: tf.Tensor) -> tf.Tensor:
        return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, sixteen))

    sixteen, mask = tf.constant(16, tf.int64), tf.constant(_MASK, tf.int64)
    for _ in range(2):
        x = tf.bitwise.bitwise_and(shift_xor(x) * 0x45D9F3B, mask)
    return shift_xor(x)


def fold_in_tf(key: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
    """Returns what `fold_in` returns, as TensorFlow operations on int64."""
    mask = tf.constant(_MASK, tf.int64)
    high = tf.bitwise.right_shift(counter, tf.constant(32, tf.int64))
    high = tf.bitwise.bitwise_and(high, tf.constant(0xFFFF, tf.int64))
    salted = tf.bitwise.bitwise_and(key + _GOLDEN * (1 + high), mask)
    low = tf.bitwise.bitwise_and(counter, mask)
    return _mix_tf(tf.bitwise.bitwise_xor(_mix_tf(salted), _mix_tf(low)))


def permutation_tf(size: tf.Tensor, *, key: tf.Tensor) -> tf.Tensor:
    """Returns what `permutation` returns, as TensorFlow operations, int64 [size]."""
    hashes = fold_in_tf(key, tf.range(tf.cast(size, tf.int64), dtype=tf.int64))
    return tf.cast(tf.argsort(hashes, stable=True), tf.int64)
