"""`make demo`: all of it happens as it tells."""

import pytest

from tests.docs.demos import PATIENCE_S, run_demo


@pytest.mark.timeout(PATIENCE_S)
def test_demo() -> None:
    run_demo("demo")
