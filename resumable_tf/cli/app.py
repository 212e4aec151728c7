"""The command `resumable-tf` and its sub-commands.

resumable-tf --help
resumable-tf audit train.py --kill-at 7 --steps 20
"""

from __future__ import annotations

import typer

from resumable_tf.cli.audit import audit

app = typer.Typer(
    name="resumable-tf",
    help="Tools for training runs that can be killed and continue bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("audit")(audit)


@app.callback()
def _commands() -> None:
    """Tools for training runs that can be killed and continue bit for bit."""
