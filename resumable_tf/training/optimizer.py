"""Adam with TensorFlow's fused kernel, and the learning-rate schedule.

    optimizer = FusedAdam(WarmupSchedule(peak=1e-3, warmup_steps=4000))

Keras composes Adam from about ten operations a variable, each a pass over memory;
TensorFlow has one kernel that does all of it. The state is Keras's own, so that
checkpoints look like those of any `tf.keras.optimizers.Adam`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class WarmupSchedule(tf.keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then inverse square root or linear decay.

    Inverse square root is that of Vaswani et al. 2017, section 5.3, where the peak is
    (D * warmup_steps)^-0.5.
    """

    def __init__(
        self, peak: float, *, warmup_steps: int, decay_steps: int | None = None
    ) -> None:
        """Keeps the shape of the curve.

        Args:
            peak: Rate at the end of the warm-up.
            warmup_steps: Steps of the warm-up.
            decay_steps: Step at which the rate is zero; inverse square root if None.

        Raises:
            ValueError: If the decay would end before the warm-up.
        """
        super().__init__()
        if decay_steps is not None and decay_steps <= warmup_steps:
            raise ValueError(
                f"decay_steps {decay_steps} must be larger than warmup_steps "
                f"{warmup_steps}"
            )
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps

    def __call__(self, step: Any) -> Any:
        """Returns the rate of the step after `step` completed ones."""
        number = tf.cast(step, tf.float32) + 1.0
        rising = number / self.warmup_steps
        if self.decay_steps is None:
            falling = (self.warmup_steps / number) ** 0.5
        else:
            left = self.decay_steps + 1.0 - number
            falling = tf.maximum(left / (self.decay_steps - self.warmup_steps), 0.0)
        return self.peak * tf.minimum(rising, tf.minimum(falling, 1.0))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
        }


class FusedAdam(tf.keras.optimizers.Adam):  # type: ignore[misc]
    """Adam (Kingma and Ba 2015) whose update is one TensorFlow kernel a variable."""

    def update_step(self, gradient: Any, variable: Any, *learning_rate: Any) -> None:
        """Updates one variable; Keras 3 passes the learning rate, tf_keras does not."""
        rate = learning_rate[0] if learning_rate else self.learning_rate
        index = self._slot_index(variable)
        number = tf.cast(tf.convert_to_tensor(self.iterations) + 1, tf.float32)
        moments = [_handle(slots[index]) for slots in self._moment_lists()]
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=moments[0],
            v=moments[1],
            beta1_power=tf.pow(tf.constant(self.beta_1), number),
            beta2_power=tf.pow(tf.constant(self.beta_2), number),
            lr=tf.cast(rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )

    def _slot_index(self, variable: Any) -> int:
        if hasattr(self, "_get_variable_index"):
            return int(self._get_variable_index(variable))
        return int(self._index_dict[self._var_key(variable)])

    def _moment_lists(self) -> tuple[Any, Any]:
        return self._momentums, self._velocities


def _handle(variable: Any) -> Any:
    """Returns the resource of a tf.Variable or of a Keras 3 variable around one."""
    inner = getattr(variable, "value", None)
    return variable.handle if inner is None or callable(inner) else inner.handle
