"""Settings, addresses, Celery, WSGI: what wires the parts together; `local` and `loop` import it."""
