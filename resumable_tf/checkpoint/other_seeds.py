"""Two `tf.data` pipelines that differ in the seeds of their shuffles only.

    lines = other_seeds(saved["pipeline"], now["pipeline"])     # [] if in more

A dataset does not tell whether a seed was given or drawn when it was made. A drawn one
depends on all that was drawn before, so that a small change anywhere in the program
changes it.
"""

from __future__ import annotations

from typing import Any

_GLOBAL, _OWN = "_seed", "_seed2"
_NONE = 0
# What TensorFlow takes for the global seed where there is none.
_DEFAULT_GLOBAL = 87654321


def other_seeds(saved: Any, now: Any) -> list[str]:
    """Returns what to say of two pipelines with other seeds.

    Args:
        saved: The operations of the checkpoint's pipeline, with their numbers.
        now: Those of this start.

    Returns:
        Lines with the seeds and what to do; none if the pipelines differ otherwise.
    """
    if _without(saved) != _without(now):
        return []
    lines: list[str] = []
    for (name, was), (_, has) in zip(saved, now, strict=True):
        if was != has:
            lines += [
                f"  {name.strip('_').removesuffix('Dataset').lower()}() "
                f"with a buffer of {was['_buffer_size']}:"
                if "_buffer_size" in was
                else f"  {name.strip('_')}:",
                f"    checkpoint: {_text(was)}",
                f"    now:        {_text(has)}",
                f"    {_advice(was, has)}",
            ]
    return [
        *lines,
        "A seed that is not given is drawn when the dataset is made, and depends on "
        "all that was drawn before: give shuffle() a seed= of its own, and it does not "
        "change with the rest of the program",
    ]


def _without(pipeline: Any) -> list[Any]:
    """Returns a pipeline without its seeds; another one if it has none."""
    return [
        [name, {key: number for key, number in numbers.items() if not _is_seed(key)}]
        for name, numbers in pipeline
    ]


def _is_seed(key: str) -> bool:
    return key in (_GLOBAL, _OWN)


def _text(numbers: dict[str, Any]) -> str:
    whole, own = numbers.get(_GLOBAL), numbers.get(_OWN)
    if whole == own == _NONE:
        return "no seed at all"
    of_all = "no global seed" if whole == _DEFAULT_GLOBAL else f"global seed {whole}"
    return f"seed {own}, {of_all}"


def _advice(was: dict[str, Any], has: dict[str, Any]) -> str:
    if was.get(_GLOBAL) == was.get(_OWN) == _NONE:
        return "To go on with it, give no seed and call no tf.random.set_seed"
    calls = []
    if was.get(_GLOBAL) != has.get(_GLOBAL):
        calls.append(
            "no tf.random.set_seed"
            if was.get(_GLOBAL) == _DEFAULT_GLOBAL
            else f"tf.random.set_seed({was.get(_GLOBAL)}) before the dataset is made"
        )
    calls.append(f"seed={was.get(_OWN)}")
    return f"To go on with it: {' and '.join(calls)}"
