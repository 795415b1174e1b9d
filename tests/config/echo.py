"""A WSGI application that tells what it was sent, for the tests of the web worker."""

import hashlib
import json

from config.web import buffering


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    facts = {
        "path": environ["PATH_INFO"],
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    answer = json.dumps(facts).encode()
    head = {"Content-Type": "application/json", "Content-Length": str(len(answer))}
    start_response("200 OK", list(head.items()))
    return [answer]


class HastyWorker(buffering.BufferingWorker):
    """The worker with little patience, so that a test sees it end."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        buffering.PATIENCE = 0.5
        buffering.SLOWEST = 100_000
