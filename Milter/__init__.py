"""Mail filters for Sendmail and Postfix: pymilter's package, on an engine of its own.

Derive from `Milter.Base`, set `Milter.factory`, call `Milter.runmilter`. Only names here, no
logic: `_base` has the classes, `_run` has runmilter, `_lowlevel` the functions of the `milter`
module. pymilter's package also shows the modules that it imports, and filters reach for them.
"""

from __future__ import print_function

import _thread as thread
import os
import re
import sys
from functools import wraps
from typing import Any as _Any
from typing import Callable as _Callable

__version__ = "1.1.0"

# The counter of uniqueID(); filters look at it. Here before _run is imported, which needs both.
_seq = 0
_seq_lock = thread.allocate_lock()

# In a source tree Python finds the sources before what is installed, with no engine among them.
try:
    from Milter._engine import lib as _lib
except ModuleNotFoundError as _problem:
    if _problem.name != "Milter._engine":
        raise
    raise ImportError(
        f"{os.path.dirname(__file__)} has no engine for this Python: in a source tree,"
        " pip install -e . builds it; what is installed is found from any other directory"
    ) from None

# The module may be only half there, when it is what imports us; so nothing is taken from it.
import milter as milter  # noqa: E402

# pymilter, installed in the same place, leaves its extension module there, which Python prefers to
# milter.py; filters would run half on this and half on libmilter.
if str(getattr(milter, "__file__", "")).endswith(".so"):
    raise ImportError(
        f"{milter.__file__} is pymilter's: uninstall pymilter, then install pymilter-cffi again"
        " (pip install --force-reinstall --no-deps pymilter-cffi)"
    )

from Milter._base import (  # noqa: E402
    Base,
    DisabledAction,
    Milter,
    R,
)
from Milter._constants import (  # noqa: E402
    ACCEPT,
    ADDHDRS,
    ADDRCPT,
    ADDRCPT_PAR,
    ALL_OPTS,
    CHGBODY,
    CHGFROM,
    CHGHDRS,
    CONTINUE,
    CURR_ACTS,
    DELRCPT,
    DISCARD,
    FAILURE,
    M_CONNECT,
    M_DATA,
    M_ENVFROM,
    M_ENVRCPT,
    M_EOH,
    M_EOM,
    M_HELO,
    MODBODY,
    NOREPLY,
    P_HDR_LEADSPC,
    P_NOBODY,
    P_NOCONNECT,
    P_NODATA,
    P_NOEOH,
    P_NOHDRS,
    P_NOHELO,
    P_NOMAIL,
    P_NORCPT,
    P_NOUNKNOWN,
    P_NR_BODY,
    P_NR_CONN,
    P_NR_DATA,
    P_NR_EOH,
    P_NR_HDR,
    P_NR_HELO,
    P_NR_MAIL,
    P_NR_RCPT,
    P_NR_UNKN,
    P_RCPT_REJ,
    P_SKIP,
    QUARANTINE,
    REJECT,
    SETSYMLIST,
    SKIP,
    SUCCESS,
    TEMPFAIL,
    V1_ACTS,
    V2_ACTS,
    VERSION,
)
from Milter._decorators import (  # noqa: E402
    MACRO_CALLBACKS,
    OPTIONAL_CALLBACKS,
    decode,
    enable_protocols,
    header_leading_space,
    nocallback,
    noreply,
    rejected_recipients,
    symlist,
)
from Milter._errors import error  # noqa: E402
from Milter._lowlevel import (  # noqa: E402
    getdiag,
    getversion,
    limits,
    main,
    opensocket,
    register,
    set_abort_callback,
    set_body_callback,
    set_close_callback,
    set_connect_callback,
    set_envfrom_callback,
    set_envrcpt_callback,
    set_eoh_callback,
    set_eom_callback,
    set_exception_policy,
    set_flags,
    set_header_callback,
    set_helo_callback,
    setbacklog,
    setconn,
    setdbg,
    settimeout,
    stop,
)
from Milter._params import decode_mask, dictfromlist, envcallback, param2dict  # noqa: E402
from Milter._run import (  # noqa: E402
    close_callback,
    connect_callback,
    negotiate_callback,
    runmilter,
    uniqueID,
)

factory: _Callable[[], _Any] = Milter
"""Makes the object for a connection; called without arguments. Read for each connection."""

# What `from Milter import *` gives. Not `factory`: a copy of it would be of no use.
__all__ = [
    "ACCEPT",
    "ADDHDRS",
    "ADDRCPT",
    "ADDRCPT_PAR",
    "ALL_OPTS",
    "CHGBODY",
    "CHGFROM",
    "CHGHDRS",
    "CONTINUE",
    "CURR_ACTS",
    "DELRCPT",
    "DISCARD",
    "FAILURE",
    "MACRO_CALLBACKS",
    "MODBODY",
    "M_CONNECT",
    "M_DATA",
    "M_ENVFROM",
    "M_ENVRCPT",
    "M_EOH",
    "M_EOM",
    "M_HELO",
    "NOREPLY",
    "OPTIONAL_CALLBACKS",
    "P_HDR_LEADSPC",
    "P_NOBODY",
    "P_NOCONNECT",
    "P_NODATA",
    "P_NOEOH",
    "P_NOHDRS",
    "P_NOHELO",
    "P_NOMAIL",
    "P_NORCPT",
    "P_NOUNKNOWN",
    "P_NR_BODY",
    "P_NR_CONN",
    "P_NR_DATA",
    "P_NR_EOH",
    "P_NR_HDR",
    "P_NR_HELO",
    "P_NR_MAIL",
    "P_NR_RCPT",
    "P_NR_UNKN",
    "P_RCPT_REJ",
    "P_SKIP",
    "QUARANTINE",
    "REJECT",
    "SETSYMLIST",
    "SKIP",
    "SUCCESS",
    "TEMPFAIL",
    "V1_ACTS",
    "V2_ACTS",
    "VERSION",
    "Base",
    "DisabledAction",
    "Milter",
    "R",
    "close_callback",
    "connect_callback",
    "decode",
    "decode_mask",
    "dictfromlist",
    "enable_protocols",
    "envcallback",
    "error",
    "getdiag",
    "getversion",
    "header_leading_space",
    "main",
    "negotiate_callback",
    "nocallback",
    "noreply",
    "opensocket",
    "param2dict",
    "print_function",
    "re",
    "register",
    "rejected_recipients",
    "runmilter",
    "set_abort_callback",
    "set_body_callback",
    "set_close_callback",
    "set_connect_callback",
    "set_envfrom_callback",
    "set_envrcpt_callback",
    "set_eoh_callback",
    "set_eom_callback",
    "set_exception_policy",
    "set_flags",
    "set_header_callback",
    "set_helo_callback",
    "setbacklog",
    "setconn",
    "setdbg",
    "settimeout",
    "stop",
    "symlist",
    "sys",
    "uniqueID",
    "wraps",
]
