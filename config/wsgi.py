"""The WSGI application that gunicorn serves."""

import os
from collections.abc import Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application

from config.web.patience import limit_statements

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

limit_statements()
django = get_wsgi_application()

from config.web.errors import take_charset  # noqa: E402  # wants the settings


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return django(take_charset(environ), start_response)
