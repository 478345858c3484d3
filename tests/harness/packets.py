r"""The packets that wire spec 8 names by a letter, and replies without data, byte by byte.

C=`h\0 4 04D2 192.0.2.1\0`, H=`h\0`, M=`<a@b>\0`, R=`<c@d>\0`, L=`Subject\0hi\0`, B=`xy\r\n`,
U=`FOO\0`; T, N, E, A, Q and K carry nothing.
"""

OFFER = bytes.fromhex("0000000D 4F 00000006 000001FF 001FFFFF")
C = bytes.fromhex("00000010 43") + b"h\0" + b"4" + b"\x04\xd2" + b"192.0.2.1\0"
H = bytes.fromhex("00000003 48") + b"h\0"
M = bytes.fromhex("00000007 4D") + b"<a@b>\0"
R = bytes.fromhex("00000007 52") + b"<c@d>\0"
T = bytes.fromhex("00000001 54")
L = bytes.fromhex("0000000C 4C") + b"Subject\0hi\0"
N = bytes.fromhex("00000001 4E")
B = bytes.fromhex("00000005 42") + b"xy\r\n"
E = bytes.fromhex("00000001 45")
A = bytes.fromhex("00000001 41")
Q = bytes.fromhex("00000001 51")
K = bytes.fromhex("00000001 4B")
U = bytes.fromhex("00000005 55") + b"FOO\0"

CONTINUE = bytes.fromhex("00000001 63")
ACCEPT = bytes.fromhex("00000001 61")
REJECT = bytes.fromhex("00000001 72")
TEMPFAIL = bytes.fromhex("00000001 74")
DISCARD = bytes.fromhex("00000001 64")
SKIP = bytes.fromhex("00000001 73")
PROGRESS = bytes.fromhex("00000001 70")

#: A whole message, and the callbacks of F for it.
MESSAGE = (M, R, T, L, N, B, E)
MESSAGE_NAMES = ["mail", "rcpt", "data", "header", "eoh", "body", "eom"]

BY_LETTER = {
    "C": C, "H": H, "M": M, "R": R, "T": T, "L": L, "N": N, "B": B, "E": E,
    "A": A, "Q": Q, "K": K, "U": U,
}  # fmt: skip


def commands(letters: str) -> list[bytes]:
    """The packets for a row's notation, such as "C H M R"."""
    return [BY_LETTER[letter] for letter in letters.split()]


def replies(letters: str) -> list[bytes]:
    """What each of those commands is answered with when every callback says CONTINUE."""
    return [b"" if letter in "AKQ" else CONTINUE for letter in letters.split()]
