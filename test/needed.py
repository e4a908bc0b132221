"""What some tests need beyond the package itself."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

IS_CI = bool(os.environ.get("CMS_CI"))


def needs(package: str) -> pytest.MarkDecorator:
    """Skips a test where a package is missing; in .ci/run the test runs all the same, and fails."""
    reason = f'{package} is missing: pip install "cms-python-client[dev]"'
    return pytest.mark.skipif(find_spec(package) is None and not IS_CI, reason=reason)
