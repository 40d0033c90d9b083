"""The client of a Headrace relay: streams that resume by themselves, can be stopped at any moment, and end honestly.

`docs/client.md` is the guide.
"""

from headrace.client.answers import Connection, Failure, Receipt, Reply, StreamState
from headrace.client.asks import Messages, RequestFields
from headrace.client.asynchronous import AsyncClient, AsyncStream
from headrace.client.blocking import Client, Stream
from headrace.client.failures import RelayFailure, reply_of
from headrace.client.measures import ClientMetrics
from headrace.client.port import Timeouts
from headrace.client.recovery import Policy

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "ClientMetrics",
    "Connection",
    "Failure",
    "Messages",
    "Policy",
    "Receipt",
    "RelayFailure",
    "Reply",
    "RequestFields",
    "Stream",
    "StreamState",
    "Timeouts",
    "reply_of",
]
