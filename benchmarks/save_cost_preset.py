"""What saves cost the real training of a preset, for `save_cost.py --preset`.

The model, optimizer, kernels, input pipeline and malloc settings are those of
`scripts/train_translation.py`; one step a call, so that steps can be timed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As scripts/train_translation.py does.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from our_training import OurTraining, open_dataset
from save_cost_plan import Window
from save_cost_process import NUM_WARM_UP_STEPS, save_in_training

import resumable_tf as rtf
from models.config import preset


class PresetTraining:
    def __init__(self, name: str, *, records: str, directory: str) -> None:
        recipe = preset(name)
        dataset = open_dataset(recipe, data="embedded", records=records)
        self._training = OurTraining(recipe, dataset)
        self._state = rtf.TrainState(
            model=self._training.model,
            optimizer=self._training.optimizer,
            data=dataset,
        )
        self._checkpointer = rtf.Checkpointer(directory, keep_last=2)
        self._checkpointer.restore_or_initialize(self._state)
        self.num_parameters = self._training.config.num_parameters

    def step(self) -> None:
        self._training.train(1)
        self._state.step = self._training.step

    def save(self) -> Callable[[], object]:
        return self._checkpointer.save(self._state).result

    def close(self) -> None:
        self._checkpointer.close()


def main() -> None:
    """Measures saves of one running training and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--records", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--saves", type=int, required=True)
    args = parser.parse_args()
    training = PresetTraining(
        args.preset, records=args.records, directory=args.directory
    )
    window = Window(directory=args.directory, num_steps_alone=5)
    for _ in range(NUM_WARM_UP_STEPS):
        training.step()
    saves: list[dict[str, Any]] = []
    for _ in range(args.saves):
        saves.append(save_in_training(training, window))
    training.close()
    found = {"num_parameters": training.num_parameters, "saves": saves}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
