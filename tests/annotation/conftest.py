"""What several files of these tests share."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection


@pytest.fixture
def meanwhile():
    """Start a deed in a thread; the future it returns has the deed's result."""
    with ThreadPoolExecutor(1) as pool:

        def start(deed, **fields):
            def run():
                try:
                    return deed(**fields)
                finally:
                    connection.close()

            return pool.submit(run)

        yield start
