"""A small training loop of one's own that can be killed and continues bit for bit.

python docs/small_loop.py --run-dir runs/small
resumable-tf audit docs/small_loop.py --kill-at 7 --steps 20 -- --run-dir {run_dir}
"""

import argparse

import numpy as np
import tensorflow as tf

import resumable_tf as rtf


def main(run_dir: str) -> None:
    """Trains a small regression for 200 steps."""
    tf.keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    inputs = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, inputs[:, :1]))
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8,)),
            tf.keras.layers.Dense(16, activation="relu"),
            tf.keras.layers.Dropout(0.2),
            tf.keras.layers.Dense(1),
        ]
    )
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(batch):
        features, targets = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(features, training=True) - targets) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    batches = rtf.ResumableIterator(dataset.shuffle(64, seed=1).batch(8))
    state = rtf.TrainState(model=model, optimizer=optimizer, data=batches)
    state.watch(train_step)
    with rtf.Checkpointer(run_dir, every_steps=5) as checkpointer:
        checkpointer.restore_or_initialize(state)
        while state.step < 200:
            loss = train_step(next(batches))
            state.step += 1
            checkpointer.maybe_save(state)
            if state.step == 200:
                print(f"loss {float(loss):.4f}")
    print(f"finished at step {state.step}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", required=True)
    main(parser.parse_args().run_dir)
