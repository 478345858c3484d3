"""The filter on kilter.service: python kilter_filter.py SOCKET WORKLOAD.

Its filters are coroutines that run from the connection to the end of a message, not callbacks, and
say beforehand at which steps they may answer.
"""

import sys

import anyio
from kilter.protocol import Accept, Header, Reject
from kilter.service import END, Runner, Session
from kilter.service.options import (
    examine_body,
    examine_headers,
    examine_helo,
    examine_recipients,
    examine_sender,
    responds_to_connect,
)

SOCKET, WORKLOAD = sys.argv[1:]
answers = WORKLOAD != "noreply"


@examine_helo(can_respond=answers)
@examine_sender(can_respond=answers)
@examine_recipients(can_respond=answers)
@examine_headers(can_respond=answers, can_add=True)
@examine_body(can_respond=answers)
async def look(session: Session) -> Accept | Reject:
    """Looks at everything, adds one header."""
    seen = len(session.host)
    seen += len(await session.helo())
    if WORKLOAD == "reject":
        return Reject()
    seen += len(await session.envelope_from())
    async for recipient in session.envelope_recipients():
        seen += len(recipient)
    async with session.headers as headers:
        async for header in headers:
            seen += len(header.name) + len(header.value)
    async with session.body as body:
        async for chunk in body:
            seen += len(chunk)
    if WORKLOAD == "block":
        await anyio.sleep(0.02)
    queue_id = session.macros.get("i") or "-"
    await session.headers.insert(Header("X-Filter", queue_id.encode()), END)
    return Accept()


if answers:
    look = responds_to_connect()(look)


async def main() -> None:
    """Listens and serves."""
    kind, _, where = SOCKET.partition(":")
    if kind == "unix":
        listener = await anyio.create_unix_listener(where)
    else:
        port, _, host = where.partition("@")
        listener = await anyio.create_tcp_listener(local_host=host, local_port=int(port))
    await listener.serve(Runner(look))


if __name__ == "__main__":
    anyio.run(main)
