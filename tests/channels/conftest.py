"""What the tests of the channels share."""

import pytest

# The suite's asserts stand in plain modules: without this they would fail without saying what they saw.
pytest.register_assert_rewrite("tests.channels.suite")
