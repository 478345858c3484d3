"""What the protocol demands of a filter, a rule each, for errors to name.

Owns the words of the rules and where they stand. Who finds that one is broken: Milter._conversation
(what a filter says to an MTA that keeps to the protocol), Milter._mtacodec (its reply texts), and
Milter._torture (what it does when the MTA does not).
"""

from __future__ import annotations

from typing import Final

_SAID: Final = {
    # -- packets
    "frame": ("1.1", "a packet's length counts its letter, and is 1 at least"),
    "silence": ("1.1 and 2.3", "a filter speaks when it was asked, and answers once"),
    "size": ("1.2", "a packet has no more data than was agreed on, 65535 bytes by default"),
    "letter": ("1.4", "a filter sends the letters of 1.4 only"),
    "never": ("1.4", "no filter may send it"),
    "misplaced": ("1.4", "it answers the offer, and nothing else does"),
    "layout": ("1.4", "exact length, strings ended by NUL"),
    # -- negotiation
    "offer": ("8.9, row 193", "the offer is answered with what was offered, or less"),
    "lists": ("2.5", "macro lists are for stages 0 to 6, one for each"),
    "lists not offered": ("2.5", "macro lists only where the MTA offered SETSYMLIST"),
    "lists size": ("2.5", "a macro list has 50 names at most, all that Sendmail takes"),
    "one size": ("2.6", "one of the larger data sizes is chosen, not two"),
    # -- answers
    "skip": ("2.4", "SKIP answers a piece of body, where it was negotiated"),
    "discard": ("4.2", "CONNECT and HELO are about no message that could be discarded"),
    "progress": ("4.6", "this MTA takes PROGRESS only at the end of a message"),
    "reply": ("4.4 and 4.5", "a reply text is a whole SMTP reply of 4xx or 5xx"),
    "reply classes": ("4.4 and 4.5", "the code and the enhanced code are of one class"),
    "reply size": ("4.4", "a reply has 32 lines at most, and a line 980 bytes of text"),
    "percent": ("4.5", "% is doubled in a reply text, which is a format to Sendmail"),
    # -- modifications
    "early change": ("8.9, row 196", "changes come after the end of a message, before the verdict"),
    "action": ("8.9, row 196", "the action of a change was negotiated"),
    "empty": ("5", "no change has an empty name, address or reason"),
    "index": ("5", "a header's number is not negative"),
    "line ends": ("5", "a header is folded by LF and a blank, without CR"),
    "body pieces": ("5", "the pieces of a new body follow each other"),
    # -- connections
    "answer": ("1.3", "every command but D, A, K and Q is answered, unless it was agreed not to"),
    "quit": ("1.3", "after QUIT both sides close"),
    "end": ("3.2", "where the MTA has closed, the filter closes"),
    "service": ("3.2 and 7.2", "whatever one connection brings, others are served"),
}

RULES: Final = {name: f"wire spec {section}: {words}" for name, (section, words) in _SAID.items()}
"""By a name for use in code, the section of the wire spec and what it says."""
