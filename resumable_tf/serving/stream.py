"""Translates a stream of lines as they come in.

    translate_stream(translator, sys.stdin.buffer, sys.stdout.buffer)

From a terminal each line is answered at once; from a file as many lines are
translated together as one read returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

from resumable_tf.serving.translator import Translator

_READ_BYTES = 1 << 16


class Readable(Protocol):
    """A buffered binary stream."""

    def read1(self, size: int, /) -> bytes:
        """Returns what is there, at most `size` bytes; waits for at least one."""


def translate_stream(
    translator: Translator, source: Readable, target: BinaryIO, *, batch_size: int = 64
) -> int:
    """Writes one line for each line read, in order, and flushes after each read.

    Args:
        translator: An exported model.
        source: UTF-8 lines; bytes that are not UTF-8 are replaced.
        target: Gets UTF-8 lines.
        batch_size: Lines at a time.

    Returns:
        How many lines were too long, so that only their beginning was translated.
    """
    num_truncated = 0
    for lines in read_lines(source):
        translations = translator.translate(lines, batch_size=batch_size)
        for translation in translations:
            text = " ".join(translation.text.splitlines())
            target.write(text.encode("utf-8") + b"\n")
            num_truncated += translation.is_truncated
        target.flush()
    return num_truncated


def read_lines(source: Readable) -> Iterator[list[str]]:
    """Yields the complete lines of each read; the last may lack its line end."""
    pending: list[bytes] = []
    while chunk := source.read1(_READ_BYTES):
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield _decode(b"".join([*pending, head]))
            pending = [tail]
        else:
            pending.append(chunk)
    if any(pending):
        yield _decode(b"".join(pending))


def _decode(block: bytes) -> list[str]:
    text = block.decode("utf-8", errors="replace")
    return [line.removesuffix("\r") for line in text.split("\n")]
