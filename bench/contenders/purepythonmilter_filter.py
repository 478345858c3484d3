"""The filter on purepythonmilter: python purepythonmilter_filter.py SOCKET WORKLOAD.

It listens on TCP only. A hook that is annotated to return nothing is negotiated as one that does
not answer, so the workload "noreply" has hooks of its own.
"""

import asyncio
import logging
import sys

import purepythonmilter as ppm

SOCKET, WORKLOAD = sys.argv[1:]
seen = 0


async def connect(command: ppm.Connect) -> ppm.VerdictOrContinue:
    """Looks at what it is given."""
    await quiet_connect(command)
    return ppm.Continue()


async def helo(command: ppm.Helo) -> ppm.VerdictOrContinue:
    """Looks at what it is given; rejects if that is the workload."""
    await quiet_helo(command)
    return ppm.Reject() if WORKLOAD == "reject" else ppm.Continue()


async def mail_from(command: ppm.MailFrom) -> ppm.VerdictOrContinue:
    """Looks at what it is given."""
    await quiet_mail_from(command)
    return ppm.Continue()


async def rcpt_to(command: ppm.RcptTo) -> ppm.VerdictOrContinue:
    """Looks at what it is given."""
    await quiet_rcpt_to(command)
    return ppm.Continue()


async def data(command: ppm.Data) -> ppm.VerdictOrContinue:
    """Continues."""
    return ppm.Continue()


async def header(command: ppm.Header) -> ppm.VerdictOrContinue:
    """Looks at what it is given."""
    await quiet_header(command)
    return ppm.Continue()


async def end_of_headers(command: ppm.EndOfHeaders) -> ppm.VerdictOrContinue:
    """Continues."""
    return ppm.Continue()


async def body_chunk(command: ppm.BodyChunk) -> ppm.VerdictOrContinue:
    """Looks at what it is given."""
    await quiet_body_chunk(command)
    return ppm.Continue()


async def unknown(command: ppm.Unknown) -> ppm.VerdictOrContinue:
    """Continues."""
    return ppm.Continue()


async def quiet_connect(command: ppm.Connect) -> None:
    """Looks at what it is given."""
    global seen
    seen += len(str(command.connection_info_args))


async def quiet_helo(command: ppm.Helo) -> None:
    """Looks at what it is given."""
    global seen
    seen += len(command.hostname)


async def quiet_mail_from(command: ppm.MailFrom) -> None:
    """Looks at what it is given."""
    global seen
    seen += len(command.address)


async def quiet_rcpt_to(command: ppm.RcptTo) -> None:
    """Looks at what it is given."""
    global seen
    seen += len(command.address)


async def quiet_data(command: ppm.Data) -> None:
    """Does nothing."""


async def quiet_header(command: ppm.Header) -> None:
    """Looks at what it is given."""
    global seen
    seen += len(command.name) + len(command.text)


async def quiet_end_of_headers(command: ppm.EndOfHeaders) -> None:
    """Does nothing."""


async def quiet_body_chunk(command: ppm.BodyChunk) -> None:
    """Looks at what it is given."""
    global seen
    seen += len(command.data_raw)


async def quiet_unknown(command: ppm.Unknown) -> None:
    """Does nothing."""


async def end_of_message(command: ppm.EndOfMessage) -> ppm.VerdictOrContinue:
    """Adds a header."""
    if WORKLOAD == "block":
        await asyncio.sleep(0.02)
    value = command.macros.get("i") or "-"
    added = ppm.AppendHeader(headername="X-Filter", headertext=value)
    return ppm.Continue(manipulations=[added])


if __name__ == "__main__":
    kind, _, where = SOCKET.partition(":")
    if kind != "inet":
        sys.exit("purepythonmilter listens on TCP only")
    port, _, host = where.partition("@")
    logging.basicConfig(level=logging.WARNING)
    prefix = "quiet_" if WORKLOAD == "noreply" else ""
    envelope = ("connect", "helo", "mail_from", "rcpt_to", "data", "unknown")
    content = ("header", "end_of_headers", "body_chunk")
    hooks = {f"hook_on_{step}": globals()[prefix + step] for step in envelope + content}
    ppm.PurePythonMilter(
        name="bench",
        can_add_headers=True,
        hook_on_end_of_message=end_of_message,
        restrict_symbols=None,  # the macros that the MTA sends by itself, as with the others
        **hooks,
    ).run_server(host=host, port=int(port))
