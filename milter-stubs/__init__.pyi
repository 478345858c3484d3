"""The types of the module milter, which as a single file cannot carry a py.typed (PEP 561)."""

from Milter._constants import (
    ACCEPT as ACCEPT,
)
from Milter._constants import (
    ADDHDRS as ADDHDRS,
)
from Milter._constants import (
    ADDRCPT as ADDRCPT,
)
from Milter._constants import (
    ADDRCPT_PAR as ADDRCPT_PAR,
)
from Milter._constants import (
    ALL_OPTS as ALL_OPTS,
)
from Milter._constants import (
    CHGBODY as CHGBODY,
)
from Milter._constants import (
    CHGFROM as CHGFROM,
)
from Milter._constants import (
    CHGHDRS as CHGHDRS,
)
from Milter._constants import (
    CONTINUE as CONTINUE,
)
from Milter._constants import (
    CURR_ACTS as CURR_ACTS,
)
from Milter._constants import (
    DELRCPT as DELRCPT,
)
from Milter._constants import (
    DISCARD as DISCARD,
)
from Milter._constants import (
    FAILURE as FAILURE,
)
from Milter._constants import (
    M_CONNECT as M_CONNECT,
)
from Milter._constants import (
    M_DATA as M_DATA,
)
from Milter._constants import (
    M_ENVFROM as M_ENVFROM,
)
from Milter._constants import (
    M_ENVRCPT as M_ENVRCPT,
)
from Milter._constants import (
    M_EOH as M_EOH,
)
from Milter._constants import (
    M_EOM as M_EOM,
)
from Milter._constants import (
    M_HELO as M_HELO,
)
from Milter._constants import (
    MODBODY as MODBODY,
)
from Milter._constants import (
    NOREPLY as NOREPLY,
)
from Milter._constants import (
    P_HDR_LEADSPC as P_HDR_LEADSPC,
)
from Milter._constants import (
    P_NOBODY as P_NOBODY,
)
from Milter._constants import (
    P_NOCONNECT as P_NOCONNECT,
)
from Milter._constants import (
    P_NODATA as P_NODATA,
)
from Milter._constants import (
    P_NOEOH as P_NOEOH,
)
from Milter._constants import (
    P_NOHDRS as P_NOHDRS,
)
from Milter._constants import (
    P_NOHELO as P_NOHELO,
)
from Milter._constants import (
    P_NOMAIL as P_NOMAIL,
)
from Milter._constants import (
    P_NORCPT as P_NORCPT,
)
from Milter._constants import (
    P_NOUNKNOWN as P_NOUNKNOWN,
)
from Milter._constants import (
    P_NR_BODY as P_NR_BODY,
)
from Milter._constants import (
    P_NR_CONN as P_NR_CONN,
)
from Milter._constants import (
    P_NR_DATA as P_NR_DATA,
)
from Milter._constants import (
    P_NR_EOH as P_NR_EOH,
)
from Milter._constants import (
    P_NR_HDR as P_NR_HDR,
)
from Milter._constants import (
    P_NR_HELO as P_NR_HELO,
)
from Milter._constants import (
    P_NR_MAIL as P_NR_MAIL,
)
from Milter._constants import (
    P_NR_RCPT as P_NR_RCPT,
)
from Milter._constants import (
    P_NR_UNKN as P_NR_UNKN,
)
from Milter._constants import (
    P_RCPT_REJ as P_RCPT_REJ,
)
from Milter._constants import (
    P_SKIP as P_SKIP,
)
from Milter._constants import (
    QUARANTINE as QUARANTINE,
)
from Milter._constants import (
    REJECT as REJECT,
)
from Milter._constants import (
    SETSYMLIST as SETSYMLIST,
)
from Milter._constants import (
    SKIP as SKIP,
)
from Milter._constants import (
    SUCCESS as SUCCESS,
)
from Milter._constants import (
    TEMPFAIL as TEMPFAIL,
)
from Milter._constants import (
    V1_ACTS as V1_ACTS,
)
from Milter._constants import (
    V2_ACTS as V2_ACTS,
)
from Milter._constants import (
    VERSION as VERSION,
)
from Milter._errors import (
    error as error,
)
from Milter._lowlevel import (
    getdiag as getdiag,
)
from Milter._lowlevel import (
    getversion as getversion,
)
from Milter._lowlevel import (
    main as main,
)
from Milter._lowlevel import (
    opensocket as opensocket,
)
from Milter._lowlevel import (
    register as register,
)
from Milter._lowlevel import (
    set_abort_callback as set_abort_callback,
)
from Milter._lowlevel import (
    set_body_callback as set_body_callback,
)
from Milter._lowlevel import (
    set_close_callback as set_close_callback,
)
from Milter._lowlevel import (
    set_connect_callback as set_connect_callback,
)
from Milter._lowlevel import (
    set_envfrom_callback as set_envfrom_callback,
)
from Milter._lowlevel import (
    set_envrcpt_callback as set_envrcpt_callback,
)
from Milter._lowlevel import (
    set_eoh_callback as set_eoh_callback,
)
from Milter._lowlevel import (
    set_eom_callback as set_eom_callback,
)
from Milter._lowlevel import (
    set_exception_policy as set_exception_policy,
)
from Milter._lowlevel import (
    set_flags as set_flags,
)
from Milter._lowlevel import (
    set_header_callback as set_header_callback,
)
from Milter._lowlevel import (
    set_helo_callback as set_helo_callback,
)
from Milter._lowlevel import (
    setbacklog as setbacklog,
)
from Milter._lowlevel import (
    setconn as setconn,
)
from Milter._lowlevel import (
    setdbg as setdbg,
)
from Milter._lowlevel import (
    settimeout as settimeout,
)
from Milter._lowlevel import (
    stop as stop,
)
