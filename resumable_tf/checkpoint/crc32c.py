"""Checksums of a whole from the checksums of its parts.

    combine(crc32c(a), crc32c(b), len(b)) == crc32c(a + b)

A checksum is the remainder of a polynomial over GF(2): to append n bytes multiplies the
one before by x to the power of 8n (M. Adler's zlib, crc32_combine). Numbers are
reflected: the highest bit is the coefficient of x to the power of 0.
"""

from __future__ import annotations

import functools

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected and without its highest power."""
_ONE = 1 << 31
_MASK_DELTA = 0xA282EAD8


def combine(first: int, second: int, second_size: int) -> int:
    """Returns the crc32c of two pieces of data, one after the other.

    Args:
        first: crc32c of the first piece; 0 for an empty one.
        second: crc32c of the second piece.
        second_size: Bytes of the second piece.
    """
    return _multiply(_shift(second_size), first) ^ second


def mask(checksum: int) -> int:
    """Returns a crc32c as TensorFlow writes it, rotated and with a constant added.

    So data that holds its own checksum does not look damaged.
    """
    rotated = (checksum >> 15) | (checksum << 17)
    return (rotated + _MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Returns the crc32c that `mask` was given."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


@functools.lru_cache(maxsize=4096)
def _shift(num_bytes: int) -> int:
    """Returns x to the power of the number of bits."""
    result, index, bits = _ONE, 0, num_bytes * 8
    while bits:
        if bits & 1:
            result = _multiply(result, _power(index))
        bits >>= 1
        index += 1
    return result


@functools.cache
def _power(index: int) -> int:
    """Returns x to the power of two to the power of `index`."""
    if index == 0:
        return _ONE >> 1
    half = _power(index - 1)
    return _multiply(half, half)


def _multiply(a: int, b: int) -> int:
    """Returns the product of two polynomials, modulo Castagnoli's."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product
