"""The optimizers' settings in the program, compared with those a run was begun with.

    program = ProgramSettings(model)        # before anything is restored
    record = program.capture()              # at a save
    program.compare(record)                 # in the next process, after the restore

A learning rate is a variable: the saved one goes on, whatever the program says now. So
it must be, but who has changed it should hear so. What a schedule or a callback has
moved is no change of the program.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from resumable_tf.state.keras_objects import is_optimizer

_log = logging.getLogger(__name__)
_UNTOLD = object()

Settings = dict[str, Any]


class ProgramSettings:
    """What the program gives its optimizers."""

    def __init__(self, model: Any) -> None:
        """Reads the settings as the program has made them.

        Args:
            model: A compiled model.
        """
        self._model = model
        self._now = _settings_of(model)
        self._began = self._now

    def capture(self) -> dict[str, Settings]:
        """Returns what the run was begun with and what it has come to, storable."""
        return {"began": self._began, "live": _settings_of(self._model)}

    def compare(self, record: Mapping[str, Settings]) -> None:
        """Warns of each setting that the program has changed since the run began.

        Args:
            record: What `capture` returned, of the checkpoint that is restored.
        """
        began, live = record.get("began", {}), record.get("live", {})
        after, lines, rate = _settings_of(self._model), [], None
        for key, now in self._now.items():
            if now in (began.get(key, _UNTOLD), live.get(key, _UNTOLD)):
                continue
            if key not in began:
                continue
            line = f"  {key}: begun with {_text(began[key])}, this program has "
            if after.get(key) == now:
                line += f"{_text(now)}, which takes effect from here"
            else:
                line += f"{_text(now)}; {_text(after.get(key))} goes on, as saved"
                rate = now if key.endswith("learning_rate") else rate
            lines.append(line)
        self._began = dict(began)
        if not lines:
            return
        head = "this program's optimizer has other settings than the saved run:"
        advice = ""
        if isinstance(rate, float):
            advice = (
                "\nTo change a saved learning rate from the next epoch on, add "
                f"tf.keras.callbacks.LearningRateScheduler(lambda epoch: {rate:g}) "
                "to the callbacks"
            )
        _log.warning("%s\n%s%s", head, "\n".join(lines), advice)


def _settings_of(model: Any) -> Settings:
    found: Settings = {}
    optimizers = {n: value for n, value in vars(model).items() if is_optimizer(value)}
    main = getattr(model, "optimizer", None)
    if main is not None and is_optimizer(main):
        optimizers = {n: v for n, v in optimizers.items() if v is not main}
        optimizers = {"optimizer": main, **optimizers}
    for name, optimizer in optimizers.items():
        found.update(_flat(optimizer.get_config(), f"{name}."))
    return found


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "name":
            is_plain = value is None or isinstance(value, (bool, int, str))
            number = value if is_plain else _number(value)
            if number is not _UNTOLD:
                yield f"{prefix}{key}", number


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return _UNTOLD


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
