"""The engine's face for type checkers: milter_c/engine.h and protocol.def, through cffi.

cffi makes the names when it builds the extension, so both objects are typed as cffi itself types
them: anything goes. What Python relies on is kept in few files: _constants, _context, _dispatch,
_server, _tables, _threadstate, _mtacodec,
_conversation and _dialogue.
"""

from typing import Any

ffi: Any
lib: Any
