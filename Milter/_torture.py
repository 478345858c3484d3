"""Torture: thousands of conversations that no mail server would have, and what breaks in them.

    from Milter import mta

    report = mta.torture("unix:/run/filter.sock", rounds=500)
    assert report.ok, str(report)

Owns the playing of plays on a filter, the judgement of what it did, and the search for the smallest
play that still shows a fault. What plays there are is in Milter._tortureplay.

Source: wire spec 8.9, row 199.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, Final, NamedTuple, NoReturn, Optional, Union

from Milter._conversation import Outgoing, Protocol
from Milter._engine import lib
from Milter._mtacodec import (
    COMMANDS,
    HEAD,
    REPLIES,
    ConnectError,
    ConnectionLost,
    FilterTimeout,
    Kind,
    MilterError,
    ProtocolError,
    StateError,
    decode,
    encode,
    hex_of,
    parse_reply,
)
from Milter._mtarules import RULES
from Milter._mtasession import Session
from Milter._mtasocket import open_socket, reason
from Milter._profiles import Timeouts
from Milter._tortureplay import ATTACKS, NEEDS, OFFER, PLAIN, Move, Play, make_play, simpler
from Milter._torturewire import Vanished, Wire

Target = Union[str, "os.PathLike[str]", Callable[[], socket.socket]]
"""Where a filter is: a socket specification, or a function that returns a connected socket."""

OnPlay = Callable[[Play, Optional[MilterError]], Optional[bool]]
"""Takes a play and what the filter did wrong in it, or None."""

_HELO: Final = encode(lib.SMFIC_HELO, COMMANDS[lib.SMFIC_HELO].shape, (), (b"still.there",))
_QUIT: Final = encode(lib.SMFIC_QUIT, COMMANDS[lib.SMFIC_QUIT].shape)
_PASSES: Final = frozenset({Kind.CONTINUE, Kind.NO_REPLY, Kind.NOT_SENT})
_CONTINUE: Final = encode(lib.SMFIR_CONTINUE, REPLIES[lib.SMFIR_CONTINUE].shape)
_MESSAGE_AWAY: Final[int] = sum(
    command.no_bit for command in COMMANDS.values() if command.rank >= 0
)


# -- what comes of it ----------------------------------------------------------------------------


_REPLAY_WIDTH: Final = 2000  # characters of a play that is printed whole


@dataclass(frozen=True)
class Failure:
    """A rule that the filter broke.

    Attributes:
        rule: which, and where it stands.
        error: what it did, with the number of the packet in the conversation and its bytes.
        play: the smallest play found that shows it.
        first: the play that showed it first.
        times: how many plays did.
        transcript: what was said in the smallest play: who ("mta" or "filter"), and the bytes.
    """

    rule: str
    error: MilterError
    play: Play
    first: Play
    times: int = 1
    transcript: tuple[tuple[str, bytes], ...] = ()

    def __str__(self) -> str:
        """Several lines: the error, how often, and what was said."""
        about = f"{self.times} times" if self.times > 1 else "once"
        lines = [str(self.error)]
        if self.rule not in lines[0]:
            lines.append(f"  rule: {self.rule}")
        if self.first == PLAIN:
            lines.append("  with a plain message already")
        else:
            lines.append(f"  {about}, first with seed {self.first.seed}, play {self.first.number}")
        if self.play.attack is not None:
            lines.append(f"  attack: {self.play.attack.name}")
        if self.play.end.how != "quit":
            lines.append(f"  the MTA's end of it: {self.play.end.how}")
        for who, data in self.transcript:
            lines.append(f"  {'>' if who == 'mta' else '<'} {hex_of(data)}")
        lines.append(f"  replay: {self._replay()}")
        return "\n".join(lines)

    def _replay(self) -> str:
        """The play, as :meth:`Play.from_json` reads it; where it is long, how it was made."""
        text = self.play.to_json()
        if len(text) <= _REPLAY_WIDTH:
            return text
        seed, number = self.first.seed, self.first.number
        for improved in (False, True):
            if make_play(seed, number, improved) == self.first:
                return json.dumps({"make": [seed, number, improved]})
        return text


@dataclass(frozen=True)
class Report:
    """What a torture found.

    Attributes:
        seed: what the plays were made of.
        plays: how many were played.
        refused: of these, how many offers the filter refused by closing, as it may where it was
            offered less than all.
        failures: the rules that it broke, one each.
        gone: it was not there any more at the end.
        seconds: how long it took.
    """

    seed: int
    plays: int
    refused: int
    failures: tuple[Failure, ...]
    gone: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """True: no rule was broken."""
        return not self.failures

    def __str__(self) -> str:
        """A summary, and each failure."""
        count = len(self.failures)
        found = f"{count} rule{'' if count == 1 else 's'} broken" if count else "no rule broken"
        text = f"{self.plays} plays with seed {self.seed} in {self.seconds:.1f} s: {found}"
        if self.refused:
            text += f"; {self.refused} offers refused"
        if self.gone:
            text += "; the filter is gone"
        return "\n\n".join([text, *map(str, self.failures)])


def torture(
    target: Target,
    *,
    seed: int = 0,
    rounds: int = 100,
    seconds: Optional[float] = None,
    timeouts: Timeouts = Timeouts.all(5.0),
    strict: bool = True,
    improved: bool = False,
    shrink: float = 30.0,
    restart: Optional[Callable[[], None]] = None,
    on_play: Optional[OnPlay] = None,
) -> Report:
    """Plays to a filter what no mail server would, and says which rules it broke.

    A play is a connection with packets cut and put together at random, pauses, aborts, several
    messages or none, any protocol version and any subset of the bits, and an end anywhere between
    two bytes; or one that ends with something that no MTA may say. After each of them the filter
    must still serve a plain message.

    It is for filters that no mail server depends on at the time: they see mail that there is not.
    A filter that does not answer a plain message in the first place is not tortured any further.

    Args:
        target: where the filter is, or a function that returns a new connection to it.
        seed: what the plays are made of; the same plays for the same seed.
        rounds: how many plays.
        seconds: after this time no other play is begun, nor a smaller one tried; None: not before
            *rounds* are over.
        timeouts: how long the filter may take. What it does not do at all costs as much each time.
        strict: as for :class:`Milter.mta.Protocol`.
        improved: also demand what libmilter does not do, but the wire spec does (level I of its
            table): without it a filter on libmilter has a chance.
        shrink: seconds to look for a smaller play for each broken rule; 0: the first one will do.
        restart: called where the filter is gone, to start it again; None: that ends the torture,
            unless somebody else starts it within the timeout for connections.
        on_play: called after each play, with what the filter did wrong, or None; if it returns
            True, that was the last play.

    Returns:
        The report.

    Raises:
        SocketSpecError: ``target`` is no socket specification.
        ConnectError: nobody answers there at the beginning.
    """
    inquisition = _Torture(target, timeouts, strict, improved, shrink, restart)
    return inquisition.run(seed, rounds, seconds, on_play)


def replay(
    target: Target, play: Play, *, timeouts: Timeouts = Timeouts.all(5.0), strict: bool = True
) -> Optional[Failure]:
    """Plays one play to a filter, and a plain message after it.

    Args:
        target: see :func:`torture`.
        play: for example a failure's.
        timeouts: see :func:`torture`.
        strict: see :func:`torture`.

    Returns:
        What it broke, None if nothing.
    """
    return _Torture(target, timeouts, strict).attempt(play)


class _Found(NamedTuple):
    """What one play showed."""

    error: MilterError
    rule: str
    step: str
    record: list[tuple[str, bytes]]

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same fault."""
        return self.rule, self.step


@dataclass(eq=False)
class _Group:
    """Plays that showed the same fault."""

    found: _Found
    first: Play
    play: Play
    times: int = 1


@dataclass
class _State:
    """What a torture has come to."""

    refused: int = 0
    groups: dict[tuple[str, str], _Group] = field(default_factory=dict)


class _Torture:
    """A filter being tortured."""

    def __init__(
        self,
        target: Target,
        timeouts: Timeouts,
        strict: bool,
        improved: bool = False,
        shrink: float = 0.0,
        restart: Optional[Callable[[], None]] = None,
    ) -> None:
        self.target = target
        self.timeouts = timeouts
        self.strict = strict
        self.improved = improved
        self.shrink = shrink
        self.restart = restart
        self.restarts = 0
        self.end = math.inf  # when no other play is begun
        # What the filter does wrong with any message, and not because of a play.
        self.known: Optional[tuple[str, str]] = None

    def run(
        self,
        seed: int,
        rounds: int,
        seconds: Optional[float],
        on_play: Optional[OnPlay],
    ) -> Report:
        state = _State()
        begin = time.monotonic()
        self.end = math.inf if seconds is None else begin + seconds
        self.open().close()
        found = self.once(PLAIN)
        usable = True
        if found is not None:
            self.known = found.key
            self.sort(found, PLAIN, state)
            usable = isinstance(found.error, ProtocolError)
        number = 0
        gone = False
        while usable and not gone and number < rounds:
            if time.monotonic() >= self.end:
                break
            play = make_play(seed, number, self.improved)
            number += 1
            found = self.check(play, state)
            if found is not None:
                gone = not self.sort(found, play, state)
            if on_play is not None and on_play(play, None if found is None else found.error):
                break
        failures = tuple(
            Failure(
                group.found.rule,
                group.found.error,
                group.play,
                group.first,
                group.times,
                tuple(group.found.record),
            )
            for group in dict.fromkeys(state.groups.values())
        )
        return Report(seed, number, state.refused, failures, gone, time.monotonic() - begin)

    def sort(self, found: _Found, play: Play, state: _State) -> bool:
        """Puts what was found to what is the same. False: the filter is gone."""
        # One that has gone wrong without a word may have been the filter's end.
        quiet = not isinstance(found.error, ProtocolError)
        group = state.groups.get(found.key)
        if play is not PLAIN and (quiet or group is None):
            restarts = self.restarts
            if not self.serves():
                return self.ended(found, play, state)
            if quiet and self.restarts > restarts:
                # The play met what one before it, or its own beginning, had left behind.
                found = self.unserved(found)
                group = state.groups.get(found.key)
        if group is not None:
            group.times += 1
            return True
        group = _Group(found, play, play)
        alive = self.smaller(group, state)
        # Two plays that looked different may come to the same.
        same = state.groups.setdefault(group.found.key, group)
        if same is not group:
            same.times += 1
        state.groups[found.key] = same
        return alive

    def ended(self, found: _Found, play: Play, state: _State) -> bool:
        """Notes down what was the filter's end."""
        error = ProtocolError(f"the filter is gone: {found.error}", RULES["service"])
        error.packet, error.data = found.error.packet, found.error.data
        last = _Found(error, RULES["service"], "gone", found.record)
        state.groups[last.key] = _Group(last, play, play)
        return False

    def attempt(self, play: Play) -> Optional[Failure]:
        """See `replay`."""
        found = self.check(play, _State())
        if found is None:
            return None
        return Failure(found.rule, found.error, play, play, 1, tuple(found.record))

    # -- finding out -----------------------------------------------------------------------------

    def open(self) -> Wire:
        """Returns a new connection."""
        if not callable(self.target):
            return Wire(open_socket(os.fspath(self.target), self.timeouts.connect))
        try:
            return Wire(self.target())
        except OSError as error:
            raise ConnectError(f"cannot connect: {reason(error)}") from error

    def check(self, play: Play, state: _State) -> Optional[_Found]:
        """Plays a play and then a plain message; returns what was wrong."""
        found = self.once(play, state)
        if found is not None and found.rule != RULES["service"]:
            return found
        after = found or self.once(PLAIN)
        if after is None or after.key == self.known:
            return None
        if found is not None:
            return found
        return self.unserved(after)

    def unserved(self, after: _Found, where: str = "afterwards") -> _Found:
        """A plain message went wrong for a reason that is not its own."""
        error = ProtocolError(
            f"{where} a plain message is not served: {after.error}", RULES["service"]
        )
        error.packet, error.data = after.error.packet, after.error.data
        return _Found(error, RULES["service"], "", after.record)

    def serves(self) -> bool:
        """True: a plain message is served, if need be by a filter that was started again."""
        deadline = time.monotonic() + self.timeouts.connect
        restarted = False
        while True:
            found = self.once(PLAIN)
            if found is None or found.key == self.known:
                return True
            if self.restart is not None and not restarted:
                self.restart()
                self.restarts += 1
                restarted = True
                continue
            if time.monotonic() > deadline or not isinstance(found.error, ConnectError):
                return False
            time.sleep(0.1)

    def smaller(self, group: _Group, state: _State) -> bool:
        """Looks for the smallest play that shows the same. False: the filter is gone."""
        deadline = min(time.monotonic() + self.shrink, self.end)
        again = True
        while again:
            again = False
            for play in simpler(group.play):
                if time.monotonic() >= deadline:
                    return True
                found = self.check(play, _State())
                if found is None:
                    continue
                ill = not isinstance(found.error, ProtocolError) or found.rule == RULES["service"]
                if ill and group.first is not PLAIN and not self.serves():
                    return self.ended(found, play, state)
                if found.rule == group.found.rule:
                    group.play, group.found = play, found
                    again = True
                    break
        return True

    def once(self, play: Play, state: Optional[_State] = None) -> Optional[_Found]:
        """Plays a play; returns what was wrong."""
        try:
            wire = self.open()
        except ConnectError as error:
            return _Found(error, RULES["service"], "", [])
        protocol = Protocol(strict=self.strict)
        session = Session(wire, timeouts=self.timeouts, protocol=protocol)  # type: ignore[arg-type]
        step = ""
        try:
            refused = _Course(self, play, wire, session).run()
            if refused and state is not None:
                state.refused += 1
        except ProtocolError as error:
            rule: str = error.rule
            step = "" if rule in _BY_ROW else protocol.waiting_for or ""
            return _Found(error, rule, step, wire.record)
        except MilterError as error:
            return _Found(error, RULES["answer"], protocol.waiting_for or "", wire.record)
        finally:
            session.close()
        return None


_BY_ROW: Final = frozenset(row.rule for row in ATTACKS.values()) | {RULES["service"]}


class _Course:
    """One play being played."""

    def __init__(self, torture: _Torture, play: Play, wire: Wire, session: Session) -> None:
        self.torture = torture
        self.play = play
        self.wire = wire
        self.session = session
        self.protocol = session.protocol
        self.last = ("", Kind.NOT_SENT)  # the step that was played last, and its verdict
        self.clear = True  # every move was played, and the filter lets the message pass

    def run(self) -> bool:
        """Plays it to its end. True: the filter refused the offer.

        Raises:
            MilterError: what it did wrong.
        """
        row = None if self.play.attack is None else ATTACKS[self.play.attack.name]
        if row is not None and row.before is None:
            self.attack()
            return False
        try:
            try:
                if not self.negotiate():
                    return True
                self.moves()
            except Vanished:
                self.clear = False
            if row is not None:
                self.attack()
            else:
                self.end()
        except _Astray:
            pass  # what would come now cannot be told from here
        return False

    # -- what is allowed -------------------------------------------------------------------------

    def negotiate(self) -> bool:
        """Makes the offer. False: it was refused, as it may be if it is not of all there is."""
        play = self.play
        self.wire.prepare(play.cuts, 0.0, None if play.moves else self.most(0))
        try:
            self.session.negotiate(*play.offer)
        except ConnectionLost:
            version, actions, protocol = play.offer
            everything = version >= OFFER[0] and not (OFFER[1] & ~actions | OFFER[2] & ~protocol)
            said = any(who == "filter" for who, _ in self.wire.record)
            if everything or said:
                raise
            return False
        return True

    def most(self, number: int) -> Optional[int]:
        """How many bytes are written at this move, None for all; the last one is where it ends."""
        play = self.play
        last = play.attack is None and play.end.how != "quit" and number >= len(play.moves) - 1
        return play.end.after if last else None

    def moves(self) -> None:
        """Plays the moves; such as are joined in one write."""
        together: list[Move] = []
        for number, move in enumerate(self.play.moves):
            together.append(move)
            if move.joined and number + 1 < len(self.play.moves):
                continue
            self.together(together, self.most(number))
            together = []

    def together(self, moves: Sequence[Move], most: Optional[int]) -> None:
        """Writes these moves at once, and reads the answers to all."""
        ahead = self.protocol.copy()
        last = self.last
        data = b""
        possible = []
        for move in moves:
            outgoing = self.outgoing(move, ahead, last)
            if outgoing is None:
                self.clear = False
                continue
            possible.append(move)
            data += outgoing.data
            last = (outgoing.step, (outgoing.verdict and outgoing.verdict.kind) or Kind.CONTINUE)
            if outgoing.verdict is None:
                ahead.receive(_CONTINUE)
                ahead.next_event()
        for number, move in enumerate(possible):
            real = self.outgoing(move, self.protocol, self.last)
            if real is None:
                raise _Astray
            writes: tuple[bytes, ...] = ()
            if number == 0:
                cuts = sorted({cut for each in possible for cut in each.cuts})
                self.wire.prepare(cuts, max(each.pause for each in possible), most)
                writes = (data,) if data else ()
            answer = self.session.exchange(writes, real)
            self.last = (real.step, answer.verdict.kind)
            if answer.verdict.kind not in _PASSES:
                self.clear = False
                if number + 1 < len(possible):
                    # What came after it was written although the filter has decided.
                    raise _Astray

    def outgoing(
        self, move: Move, protocol: Protocol, last: tuple[str, Kind]
    ) -> Optional[Outgoing]:
        """Plays a move on a conversation; None: it may not come now."""
        if move.step == "quit_nc" and not self.torture.improved and last != ("eom", Kind.CONTINUE):
            # libmilter does not answer CONNECT after any other (wire spec 3.3, Q7).
            return None
        try:
            return move.play(protocol)
        except StateError:
            return None

    # -- the end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """Leaves as the play says."""
        how = self.play.end.how
        if how == "quit":
            self.quit()
        elif how == "reset":
            self.wire.reset()
        elif how == "half":
            data, closed = self.wire.rest(self.session.timeouts.reply, half=True)
            if not closed:
                self.broke("does not close, though the MTA has closed", RULES["end"], data)
        elif how == "stay":
            found = self.torture.once(PLAIN)
            if found is not None and found.key != self.torture.known:
                other = self.torture.unserved(found, "while another connection is idle,")
                raise other.error

    def quit(self) -> None:
        """Says QUIT, and sees that the filter closes."""
        try:
            self.session.quit()
        except StateError:
            pass  # it broke before
        except FilterTimeout:
            self.broke("does not close after QUIT", RULES["quit"], b"")

    def broke(self, text: str, rule: str, data: bytes) -> NoReturn:
        error = ProtocolError(f"the filter {text}", rule)
        self.protocol.fail(error)
        error.packet = self.protocol.packets + (self.play.attack is not None)
        error.data = data
        raise error

    # -- what is not allowed ---------------------------------------------------------------------

    def attack(self) -> None:
        """Says what no MTA may, and judges what the filter does."""
        attack = self.play.attack
        assert attack is not None
        row = ATTACKS[attack.name]
        expect = row.expect if self.applies(attack.name) else "any"
        seconds = self.session.timeouts.reply
        data = attack.data
        alive = 0  # answers by which the filter shows that it goes on
        if expect in ("drop", "stay", "answer", "options"):
            if row.before is not None and self.wanted("H"):
                data += _HELO
                alive = int(self.answered("H"))
            data += _QUIT
        self.wire.prepare(attack.cuts, 0.0)
        self.wire.settimeout(seconds)
        try:
            self.wire.sendall(data)
        except socket.timeout:
            self.broke("does not read", row.rule, b"")
        except OSError:
            pass  # it has closed already
        said, closed = self.wire.rest(seconds, half=expect == "any")
        letters = self.letters(said, row.rule)
        if not closed:
            self.broke(f"does not close after {attack.name!r}", row.rule, said)
        own = {"answer": 1, "options": 1}.get(expect, 0)
        if expect == "answer" and not self.answered(chr(attack.data[HEAD - 1])):
            own = 0
        most = {"close": 0, "any": len(letters)}.get(expect, own + alive)
        least = own + alive if expect in ("stay", "answer", "options") else 0
        if len(letters) > most:
            self.broke(f"answers {attack.name!r}", row.rule, said)
        if len(letters) < least:
            self.broke(f"does not go on after {attack.name!r}", row.rule, said)
        offers = [letter for letter in letters if letter == lib.SMFIR_OPTNEG]
        if expect != "any" and len(offers) != (expect == "options"):
            self.broke(f"answers {attack.name!r} as no filter does", row.rule, said)

    def applies(self, name: str) -> bool:
        """Whether the attack is one, with what this filter has negotiated and said so far."""
        row = ATTACKS[name]
        if row.before is None:
            return True
        if not self.clear or (name in NEEDS and not self.wanted(NEEDS[name])):
            return False
        options = self.protocol.options
        assert options is not None
        # Without some of the steps a filter cannot know what is out of order (wire spec 3.4).
        return row.expect != "drop" or not options.protocol & _MESSAGE_AWAY

    def wanted(self, letter: str) -> bool:
        """Whether the filter wants this step."""
        options = self.protocol.options
        command = COMMANDS.get(ord(letter))
        if options is None or command is None:
            return True
        return not options.protocol & command.no_bit and options.version >= command.since

    def answered(self, letter: str) -> bool:
        """Whether the filter answers this step."""
        options = self.protocol.options
        return options is None or not options.protocol & COMMANDS[ord(letter)].nr_bit

    def letters(self, said: bytes, rule: str) -> list[int]:
        """Takes what the filter said apart, and sees that it is well-formed; without PROGRESS."""
        letters = []
        while said:
            size = int.from_bytes(said[: HEAD - 1], "big")
            packet, said = said[: HEAD - 1 + size], said[HEAD - 1 + size :]
            reply = REPLIES.get(packet[HEAD - 1]) if len(packet) >= HEAD else None
            if size == 0 or reply is None or reply.kind == lib.MLT_REPLY_NEVER:
                self.broke("says what no filter may", rule, packet)
            if len(packet) < HEAD - 1 + size:
                break  # cut by the end of the connection
            fields = decode(reply.shape, packet[HEAD:])
            if fields is None:
                self.broke(f"says a malformed {reply.name}", RULES["layout"], packet)
            if reply.letter == lib.SMFIR_REPLYCODE:
                try:
                    parse_reply(fields[1][0] or b"", self.torture.strict)
                except ProtocolError as error:
                    self.broke(f"says {error.args[0]}", error.rule, packet)
            if reply.kind != lib.MLT_REPLY_PROGRESS:
                letters.append(reply.letter)
        return letters


class _Astray(Exception):
    """The filter has decided on something, and the rest was written before that was known."""
