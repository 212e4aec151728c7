"""The command `resumable-tf` and its sub-commands.

resumable-tf --help
resumable-tf audit train.py --kill-at 7 --steps 20
resumable-tf ls runs/demo
"""

from __future__ import annotations

import typer

from resumable_tf.cli.audit import audit
from resumable_tf.cli.inspect import inspect
from resumable_tf.cli.ls import ls
from resumable_tf.cli.pin import pin
from resumable_tf.cli.run import run
from resumable_tf.cli.tpu import tpu
from resumable_tf.cli.verify import verify

app = typer.Typer(
    name="resumable-tf",
    help="Tools for training runs that can be killed and continue bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("audit")(audit)
app.command("ls")(ls)
app.command("run", context_settings={"allow_interspersed_args": False})(run)
app.command("inspect")(inspect)
app.command("pin")(pin)
app.command("verify")(verify)
app.add_typer(tpu, name="tpu")


@app.callback()
def _commands() -> None:
    """Tools for training runs that can be killed and continue bit for bit."""
