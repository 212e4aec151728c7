"""Settings of all tests: quiet TensorFlow, and hypothesis without time limits."""

import os

from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Two busy cores: a slow example is no failure. The same examples at every start.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
