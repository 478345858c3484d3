"""The constants of the `milter` module, one line per name; the values are the engine's.

Source: API spec 1.2.
"""

from __future__ import annotations

from typing import Final

from Milter._engine import lib

# What a call returned, in C.
SUCCESS: Final[int] = lib.MI_SUCCESS
FAILURE: Final[int] = lib.MI_FAILURE

# Version of the library interface.
VERSION: Final[int] = lib.SMFI_VERSION

# What a callback may return.
CONTINUE: Final[int] = lib.SMFIS_CONTINUE
REJECT: Final[int] = lib.SMFIS_REJECT
DISCARD: Final[int] = lib.SMFIS_DISCARD
ACCEPT: Final[int] = lib.SMFIS_ACCEPT
TEMPFAIL: Final[int] = lib.SMFIS_TEMPFAIL
NOREPLY: Final[int] = lib.SMFIS_NOREPLY
SKIP: Final[int] = lib.SMFIS_SKIP
ALL_OPTS: Final[int] = lib.SMFIS_ALL_OPTS

# Actions: what a filter may do to a message.
ADDHDRS: Final[int] = lib.SMFIF_ADDHDRS
CHGBODY: Final[int] = lib.SMFIF_CHGBODY
ADDRCPT: Final[int] = lib.SMFIF_ADDRCPT
DELRCPT: Final[int] = lib.SMFIF_DELRCPT
CHGHDRS: Final[int] = lib.SMFIF_CHGHDRS
QUARANTINE: Final[int] = lib.SMFIF_QUARANTINE
CHGFROM: Final[int] = lib.SMFIF_CHGFROM
ADDRCPT_PAR: Final[int] = lib.SMFIF_ADDRCPT_PAR
SETSYMLIST: Final[int] = lib.SMFIF_SETSYMLIST
MODBODY: Final[int] = CHGBODY

# The actions of protocol versions 1 and 2, and all there are.
V1_ACTS: Final[int] = ADDHDRS | CHGBODY | ADDRCPT | DELRCPT
V2_ACTS: Final[int] = V1_ACTS | CHGHDRS | QUARANTINE
CURR_ACTS: Final[int] = V2_ACTS | CHGFROM | ADDRCPT_PAR | SETSYMLIST

# Macro stages.
M_CONNECT: Final[int] = lib.SMFIM_CONNECT
M_HELO: Final[int] = lib.SMFIM_HELO
M_ENVFROM: Final[int] = lib.SMFIM_ENVFROM
M_ENVRCPT: Final[int] = lib.SMFIM_ENVRCPT
M_DATA: Final[int] = lib.SMFIM_DATA
M_EOM: Final[int] = lib.SMFIM_EOM
M_EOH: Final[int] = lib.SMFIM_EOH

# Protocol bits: what the two sides leave out or do differently.
P_NOCONNECT: Final[int] = lib.SMFIP_NOCONNECT
P_NOHELO: Final[int] = lib.SMFIP_NOHELO
P_NOMAIL: Final[int] = lib.SMFIP_NOMAIL
P_NORCPT: Final[int] = lib.SMFIP_NORCPT
P_NOBODY: Final[int] = lib.SMFIP_NOBODY
P_NOHDRS: Final[int] = lib.SMFIP_NOHDRS
P_NOEOH: Final[int] = lib.SMFIP_NOEOH
P_NR_HDR: Final[int] = lib.SMFIP_NR_HDR
P_NOUNKNOWN: Final[int] = lib.SMFIP_NOUNKNOWN
P_NODATA: Final[int] = lib.SMFIP_NODATA
P_SKIP: Final[int] = lib.SMFIP_SKIP
P_RCPT_REJ: Final[int] = lib.SMFIP_RCPT_REJ
P_NR_CONN: Final[int] = lib.SMFIP_NR_CONN
P_NR_HELO: Final[int] = lib.SMFIP_NR_HELO
P_NR_MAIL: Final[int] = lib.SMFIP_NR_MAIL
P_NR_RCPT: Final[int] = lib.SMFIP_NR_RCPT
P_NR_DATA: Final[int] = lib.SMFIP_NR_DATA
P_NR_UNKN: Final[int] = lib.SMFIP_NR_UNKN
P_NR_EOH: Final[int] = lib.SMFIP_NR_EOH
P_NR_BODY: Final[int] = lib.SMFIP_NR_BODY
P_HDR_LEADSPC: Final[int] = lib.SMFIP_HDR_LEADSPC
