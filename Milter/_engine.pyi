"""The engine's face for type checkers: milter_c/engine.h and protocol.def, through cffi.

cffi makes the names when it builds the extension, so both objects are typed as cffi itself types
them: anything goes. Few files of the filter's side use them: _constants, _context, _dispatch,
_server, _tables, _threads, _threadstate. On the MTA's side it is _mtacodec, _conversation and
_direct; the others there only take constants and tables.
"""

from typing import Any

ffi: Any
lib: Any
