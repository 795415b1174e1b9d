"""Drop messages that cannot be read, so that the worker keeps running.

kombu's Valkey transport does not catch the error of a message that is no JSON, or no
message, and the worker would end with all its work. A message is only a hint
(config.celery): the reconciler finds what a lost one asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

logger = logging.getLogger(__name__)


class Channel(redis.Channel):
    """A channel that survives an unreadable message."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except self.connection_errors:
            raise
        except (ValueError, RecursionError) as error:
            logger.error("Dropped a message that is no JSON: %s", error)
            raise Empty from None

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **more: Any
    ) -> None:
        super().basic_consume(  # type: ignore[no-untyped-call]
            queue, no_ack, callback, consumer_tag, **more
        )
        receive: Callable[[Any], object] = self.connection._callbacks[queue]

        def receive_or_drop(message: Any) -> None:
            try:
                receive(message)
            except self.connection_errors:
                raise
            except Exception:
                logger.exception("Dropped a message of another form.")
                self._drop(message)

        self.connection._callbacks[queue] = receive_or_drop

    def _drop(self, message: Any) -> None:
        """Remove the message from those to be delivered again, if it is there."""
        try:
            tag = message["properties"]["delivery_tag"]
            self.basic_reject(tag, requeue=False)  # type: ignore[no-untyped-call]
        except self.connection_errors:
            raise
        except Exception as error:  # it has no delivery tag
            logger.debug("It is not kept to be delivered again: %s", error)


class Transport(redis.Transport):
    Channel = Channel


def use_for_all_brokers() -> None:
    """Let Celery take this transport for redis:// and rediss://."""
    place = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=place, rediss=place)
