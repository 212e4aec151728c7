"""Settings of all tests: quiet TensorFlow, and hypothesis without time limits."""

import gc
import os
import sys
from collections.abc import Iterator

import proof_part
import pytest
from helpers.counts import COUNTED
from helpers.fake_gcs import FakeGcs
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Otherwise gcsfs asks a gRPC service, which no emulator has, at every call.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# Tests that run on Google's machines ask fake metadata servers only.
os.environ["NO_GCE_CHECK"] = "true"

# Two busy cores: a slow example is no failure. The same examples at every start.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    proof_part.add_option(parser)
    parser.addoption(
        "--start-over",
        action="store_true",
        help="take the restore out: each test of a resume must fail",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--start-over"):
        from helpers.starts import START_OVER, start_over_if_asked

        os.environ[START_OVER] = "1"
        start_over_if_asked()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    proof_part.select(config, items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in COUNTED:
        terminalreporter.write_line(line)
    if text := proof_part.said(terminalreporter.config):
        terminalreporter.write_line(text)


@pytest.fixture
def fake_gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """A Google Cloud Storage of our own, which gs:// URLs lead to."""
    with FakeGcs() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture(autouse=True)
def without_op_determinism() -> Iterator[None]:
    """Takes back what a test has asked of TensorFlow for the whole process."""
    yield
    if "tensorflow" in sys.modules:
        config = sys.modules["tensorflow.python.framework.config"]
        if config.is_op_determinism_enabled():
            config.disable_op_determinism()


def pytest_sessionfinish() -> None:
    """Lets go of iterators that call Python while their threads can still run it.

    While the interpreter ends they can't, and TensorFlow would wait for them for ever.
    """
    gc.collect()
