"""Builds the extension ``Milter._engine`` from the engine's C sources.

What Python sees is ``engine.h``, word for word, and the symbols of ``protocol.def``; nothing is
declared a second time here. Run by setuptools through ``cffi_modules`` (setup.py).
"""

from __future__ import annotations

import os
import re
import sys

from cffi import FFI

HERE = "milter_c"
SOURCES = [
    "blocking.c",
    "buffer.c",
    "clock.c",
    "codec.c",
    "connection.c",
    "frame.c",
    "poller.c",
    "pool.c",
    "pool_accept.c",
    "pool_watch.c",
    "protocol.c",
    "serve.c",
    "session.c",
    "socket.c",
    "threadstate.c",
]
HEADERS = ["engine.h", "protocol.h", "threadstate.h"]
DEPENDS = [
    "buffer.h",
    "clock.h",
    "codec.h",
    "connection.h",
    "engine.h",
    "frame.h",
    "pool.h",
    "poller.h",
    "protocol.def",
    "protocol.h",
    "serve.h",
    "session.h",
    "socket.h",
    "threadstate.h",
]

# The rows of protocol.def whose first field names a constant.
_ROW = re.compile(r"^(MLT_[A-Z]+)\((\w+),", re.MULTILINE)


def _read(name: str) -> str:
    """Returns the text of a file of the engine."""
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, name), encoding="ascii") as file:
        return file.read()


def _declarations(header: str) -> str:
    """Returns a header without its preprocessor lines, for cffi's parser."""
    return "\n".join(line for line in header.splitlines() if not line.startswith("#"))


def _constants(table: str) -> str:
    """Returns a declaration for each symbol of protocol.def; the compiler fills in the values."""
    return "\n".join(f"#define {match.group(2)} ..." for match in _ROW.finditer(table))


ffibuilder = FFI()
ffibuilder.cdef(_declarations(_read("engine.h")))
ffibuilder.cdef(_declarations(_read("threadstate.h")))
ffibuilder.cdef(_constants(_read("protocol.def")))
ffibuilder.set_source(
    "Milter._engine",
    "\n".join(f'#include "{name}"' for name in HEADERS),
    sources=[f"{HERE}/{name}" for name in SOURCES],
    depends=[f"{HERE}/{name}" for name in DEPENDS],
    include_dirs=[HERE],
    define_macros=[("_GNU_SOURCE", None), ("NDEBUG", None)],
    extra_compile_args=["-std=gnu11", "-fvisibility=hidden"],
    libraries=[] if sys.platform == "darwin" else ["pthread"],
    # The thread state's fields are not in the stable ABI (threadstate.c).
    py_limited_api=False,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
