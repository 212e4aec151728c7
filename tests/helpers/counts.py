"""What the long proofs have counted, for the end of pytest's output.

count("killed 51: --scene=damaged")
"""

from __future__ import annotations

COUNTED: list[str] = []


def count(text: str) -> None:
    """Notes how much a test has tried."""
    COUNTED.append(text)
