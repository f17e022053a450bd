"""What is counted before the training refuses what can't fit, and nothing that can."""

import pytest
from fast_run import FAST
from tiny import digits  # type: ignore[import-not-found]
