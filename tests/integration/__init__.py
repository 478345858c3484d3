"""Filters of ours behind a private Postfix and a private Sendmail: one table of cases for both."""

import pytest

# What is compared lives in a module that is no test file; its assertions explain themselves too.
pytest.register_assert_rewrite(f"{__name__}.checks")
