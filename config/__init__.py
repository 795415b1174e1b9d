"""Settings, addresses, Celery, WSGI: what wires the parts; imported by `local` and `loop`."""
