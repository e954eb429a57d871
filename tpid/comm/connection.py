"""A connection to one device: frames in and out, heartbeats, and one clear end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol, cast

from tpid.clock import awake_or_asleep_s
from tpid.comm.channel import Channel
from tpid.comm.frames import ExpectedFrame, FrameReader, Header, encode_message, encode_tensor_head
from tpid.comm.handshake import Handshake
from tpid.comm.link_meter import LinkMeter
from tpid.comm.liveness import Liveness, Loss
from tpid.comm.messages import Bye, Device, Hello, Kind, Message, Ping, Pong, Probe, Refuse
from tpid.comm.settings import CommSettings
from tpid.comm.stream import Buffer, Stream
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.unreachable import words_of
from tpid.device import DeviceProfile
from tpid.errors import DeviceLostError, LocalProtocolError, RefusedError, RemoteProtocolError, TpidError

_RTT_WEIGHT: Final = 1 / 8  # of a new measurement in the smoothed one, as TCP does it (RFC 6298)


class Receiver(Protocol):
    """What a connection's owner does with what comes in. All are called on the event loop and must not block.

    A TpidError raised by the first two closes the connection with that error.
    """

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None:
        """Where the payload is to be written (bytes, at least `size_bytes`); None to skip the frame."""
        ...

    def received(self, connection: Connection, kind: Kind, message: Header, payload: memoryview | None) -> None:
        """A whole frame. HELLO, REFUSE, BYE, PING and PONG never come here; at DEVICE, `peer` is new already."""
        ...

    def lost(self, connection: Connection, error: TpidError) -> None:
        """Exactly once, however the connection ended (by this side too), and never from within a call to it."""
        ...


class _State(Enum):
    OPENING = auto()  # TCP is up, the hello is not done
    OPEN = auto()
    CLOSING = auto()  # the error is known; unsent bytes may still go out
    CLOSED = auto()


class Connection:
    """Made by `dial` and `Listener`. Frames are held back until `set_receiver`: call it at once.

    `peer` is what the device last told about itself, `rtt_s` the smoothed round trip of the heartbeats.
    """

    peer: DeviceProfile  # set before anybody outside of this package sees the connection

    def __init__(
        self,
        connected: socket.socket | Channel,
        make_handshake: Callable[[str], Handshake],
        settings: CommSettings,
        *,
        on_open: Callable[[Connection], None],
        on_failed: Callable[[Connection, TpidError], None],
    ) -> None:
        """Takes over what is `connected`: a bare socket is plain. `make_handshake` gets the peer's host:port. `on_open`
        follows the hello, or `on_failed` if there is none; neither comes from within this call."""
        self.rtt_s: float | None = None
        self.meter = LinkMeter(time.monotonic)
        self._settings = settings
        self._on_open = on_open
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._state = _State.OPENING
        self._opened = False
        self._error: TpidError | None = None
        self._receiver: Receiver | None = None
        self._told = False  # the owner, of the end
        self._stream = Stream(connected, self, write_pause_bytes=settings.write_pause_bytes)
        self._handshake = make_handshake(_address(self._stream.peer_name))
        self._reader = FrameReader(self, peer_address=self.peer_address, max_payload_bytes=settings.max_payload_bytes)
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None  # for the hello, then heartbeats, then the close
        self._liveness = Liveness(settings)
        self._drained: list[asyncio.Future[None]] = []
        self._set_timer(settings.hello_timeout_s, self._hello_is_late)
        self._stream.start()
        if (hello := self._handshake.start()) is not None:
            self._write(hello)

    # What the owner uses

    @property
    def peer_address(self) -> str:
        """host:port"""
        return self._handshake.peer_address

    @property
    def outgoing(self) -> bool:
        """Whether this side dialled."""
        return self._handshake.dialled

    @property
    def peer_skew_s(self) -> float | None:
        """The peer's wall clock less ours, when it connected; None where it did not tell."""
        return self._handshake.peer_skew_s

    @property
    def peer_port(self) -> int:
        """Where the peer listens, as its hello said; 0: nowhere."""
        return self._handshake.peer_port

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._state is not _State.OPEN

    def set_receiver(self, receiver: Receiver) -> None:
        """From the next turn of the loop on, `receiver` gets all frames, from the first after the hello."""
        first = self._receiver is None
        self._receiver = receiver
        if first:
            self._loop.call_soon(self._start_delivery)

    def send(self, message: Message) -> None:
        """Send a control message. Raises DeviceLostError once closed."""
        self._check_open()
        self._stream.write(encode_message(message))
        self._check_unsent()

    def send_tensor(self, kind: Kind, header: StartHeader | TensorHeader, payload: Buffer | None) -> None:
        """Send a tensor frame; `payload` (of bytes) must not change until the peer has answered to it.

        Raises DeviceLostError once closed.
        """
        n_bytes = 0 if payload is None else len(payload)
        self.send_frame(encode_tensor_head(kind, header, n_bytes), payload)

    def send_frame(self, head: bytes, payload: Buffer | None) -> None:
        """`send_tensor` with the frame up to its payload in `head`."""
        stream = self._stream
        if self._state is not _State.OPEN or stream.is_closing:
            self._check_open()
        if payload is None:
            stream.write(head)
        else:
            stream.write(head, payload)
        if self._liveness.blocked:
            self._check_unsent()

    def expect(self, frame: ExpectedFrame | None) -> None:
        """Tell what comes next, so that it need not be understood; instead of what was told before."""
        self._reader.expected = frame

    def receive(self, deadline_s: float) -> bool:
        """Without the loop: take in what has come, or wait for it until `deadline_s` of `time.perf_counter`.

        Whether anything came. Never on a connection that has ended: `lost` follows from the loop.
        """
        return self._stream.receive(deadline_s)

    def flush(self, most_s: float) -> None:
        """Without the loop: wait until all is sent, for `most_s` at most."""
        if self._stream.unsent_bytes:
            self._stream.flush(most_s)

    def probe(self) -> None:
        """Begin to measure the link, anew; `meter` has the result. Raises DeviceLostError once closed."""
        for probe in self.meter.begin():
            self.send(probe)

    async def drain(self) -> None:
        """Wait until the write buffer is below its limit; `silence_timeout_s` at most, then the device is lost.

        Raises DeviceLostError, or whatever error ended the connection. May be cancelled without harm.
        """
        self._check_open()
        if not self._liveness.blocked:
            return
        waiter = self._loop.create_future()
        self._drained.append(waiter)
        try:
            await waiter
        finally:
            self._drained.remove(waiter)

    async def close(self, reason: str) -> None:
        """Say goodbye and wait until the connection is gone, `close_timeout_s` at most. May be cancelled:
        the connection then ends in the background by the same timeout."""
        if self._state is _State.OPEN:
            self._write(Bye(reason=reason))
            self._end(DeviceLostError(f"This device closed the connection to {self._who()}: {reason}"))
        elif self._state is _State.OPENING:
            self.abort(DeviceLostError(f"This device closed the connection to {self._who()}: {reason}"))
        await asyncio.shield(self._gone)

    def abort(self, error: TpidError) -> None:
        """Cut the connection; `error` is what `lost` will tell."""
        self._end(error, cut=True)

    # What the stream calls

    def get_buffer(self) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._liveness.heard(awake_or_asleep_s())
        try:
            self._reader.buffer_updated(nbytes)
        except TpidError as error:
            self._fail(error)
        except Exception as error:
            # Its name only: the text goes to the peer, and might quote a prompt.
            self._fail(LocalProtocolError(f"A bug ({type(error).__name__}) ended the connection to {self._who()}."))
            raise

    def eof_received(self) -> None:
        where = " in the middle of a frame" if self._reader.in_frame else ""
        self._end(DeviceLostError(f"{self._who(True)} closed the connection without a goodbye{where}."))

    def connection_lost(self, error: OSError | None) -> None:
        if self._error is None:
            how = "was reset" if isinstance(error, ConnectionError) else "broke"
            if error is not None and how == "broke":
                how += f" ({words_of(error)})"
            self._settle(DeviceLostError(f"The connection to {self._who()} {how}."))
        self._state = _State.CLOSED
        self._set_timer(None)
        self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._liveness.write_paused(awake_or_asleep_s())

    def resume_writing(self) -> None:
        self._liveness.write_resumed()
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)

    # What the reader calls

    def payload_buffer(self, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int) -> memoryview | None:
        return cast(Receiver, self._receiver).payload_buffer(self, kind, header, size_bytes)

    def frame_received(self, kind: Kind, header: Header, payload: memoryview | None) -> None:
        match header:
            case TensorHeader() | StartHeader():
                cast(Receiver, self._receiver).received(self, kind, header, payload)
            case _ if self._state is _State.OPENING:
                self._hello_answered(header)
            case Ping(sent_s=sent_s) | Probe(sent_s=sent_s):
                self.send(Pong(sent_s=sent_s))
            case Pong(sent_s=sent_s):
                self._measure_rtt(sent_s)
                for probe in self.meter.answered(sent_s):
                    self.send(probe)
            case Bye(reason=reason):
                self._end(DeviceLostError(f"{self._who(True)} left: {reason}"))
            case Refuse(code=code, reason=reason):
                self._end(RefusedError(f"{self._who(True)} refused the connection: {reason}", reason_code=code))
            case Hello():
                raise RemoteProtocolError("A second hello came.")
            case _:
                if isinstance(header, Device):
                    if header.profile.id != self.peer.id:
                        raise RemoteProtocolError(f"The device id changed to {header.profile.id}.")
                    if header.profile.role is not self.peer.role:
                        raise RemoteProtocolError(f"The role of the device changed to {header.profile.role}.")
                    self.peer = header.profile
                cast(Receiver, self._receiver).received(self, kind, header, payload)

    # The hello

    def _hello_answered(self, message: Message) -> None:
        outcome = self._handshake.received(message)
        if outcome.send is not None:
            self._write(outcome.send)
        if outcome.peer is None:
            self._end(cast(TpidError, outcome.error))
            return
        self.peer = outcome.peer
        self._state = _State.OPEN
        self._opened = True
        self._reader.opening = False
        # Frames may follow at once, and there is nobody yet to take them.
        self._reader.pause()
        self._stream.pause_reading()
        self._set_timer(0.0, self._beat)
        self._on_open(self)

    def _hello_is_late(self) -> None:
        seconds = self._settings.hello_timeout_s
        self.abort(DeviceLostError(f"{self._who(True)} did not say hello within {seconds:g} s."))

    def _start_delivery(self) -> None:
        if self._state is _State.OPEN:
            self._reader.resume()
            self._stream.resume_reading()
            self.buffer_updated(0)  # what came behind the hello
        self._tell_end()

    # Heartbeat

    def _beat(self) -> None:
        now_s = awake_or_asleep_s()
        beat = self._liveness.beat(now_s, reads=not self._reader.paused)
        match beat.loss:
            case Loss.SILENT:
                self.abort(DeviceLostError(f"{self._who(True)} has been silent for {beat.silent_s:.1f} s."))
            case Loss.DOES_NOT_READ:
                what = f"{self._stream.unsent_bytes} bytes wait for more than {self._settings.silence_timeout_s:g} s"
                self.abort(DeviceLostError(f"{self._who(True)} does not read: {what}."))
            case None:
                if beat.ping:
                    self._write(Ping(sent_s=time.monotonic()))
                self._set_timer(beat.next_s - now_s, self._beat)

    def _measure_rtt(self, sent_s: float) -> None:
        rtt_s = time.monotonic() - sent_s  # not the loop's clock: uvloop's counts milliseconds
        if 0 <= rtt_s <= self._settings.silence_timeout_s:
            self.rtt_s = rtt_s if self.rtt_s is None else self.rtt_s + _RTT_WEIGHT * (rtt_s - self.rtt_s)

    # The end

    def _fail(self, error: TpidError) -> None:
        """End the connection because of what came in, and say so to the peer, if it is one."""
        if self._state not in (_State.OPENING, _State.OPEN):
            return
        opening = self._state is _State.OPENING
        answer = self._handshake.unreadable(error) if opening else Bye(reason=error.message)
        if isinstance(error, RemoteProtocolError):
            error = RemoteProtocolError(f"{self._who(True)} broke the protocol: {error.message}")
        if answer is not None:
            self._write(answer)
        self._end(error, cut=answer is None)

    def _end(self, error: TpidError, *, cut: bool = False) -> None:
        """The first error is the one that counts. Without `cut`, what is unsent has `close_timeout_s` to go out."""
        stream = self._stream
        if self._state in (_State.OPENING, _State.OPEN):
            self._settle(error)
            self._set_timer(self._settings.close_timeout_s, stream.abort)
            # Read on until the peer has closed as well: closing with bytes unread would reset the connection,
            # and the peer might never see the last that we said.
            stream.end_writing()
            stream.resume_reading()
        if cut and self._state is not _State.CLOSED:
            stream.abort()

    def _settle(self, error: TpidError) -> None:
        self._state = _State.CLOSING
        self._error = error
        self._reader.stop()
        self._loop.call_soon(self._tell_end)
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_exception(error)

    def _tell_end(self) -> None:
        """Now, not when the last bytes are out: who waits for this device shall not wait for its goodbye."""
        if self._error is None or self._told or (self._opened and self._receiver is None):
            return
        self._told = True
        if self._receiver is None:
            self._on_failed(self, self._error)
        else:
            self._receiver.lost(self, self._error)

    def _check_open(self) -> None:
        # Between a failed write and connection_lost only the stream knows.
        if self._state is not _State.OPEN or self._stream.is_closing:
            raise DeviceLostError(f"The connection to {self._who()} is closed: {self._error or 'a write failed.'}")

    def _write(self, message: Message) -> None:
        """What is said on the way out, or by ourselves: nobody minds if it is too late."""
        if not self._stream.is_closing:
            self._stream.write(encode_message(message))

    def _check_unsent(self) -> None:
        if not self._liveness.blocked:
            return
        n_bytes = self._stream.unsent_bytes
        if n_bytes > self._settings.write_limit_bytes:
            error = DeviceLostError(f"{self._who(True)} does not read: {n_bytes} bytes wait to be sent.")
            self.abort(error)
            raise error

    def _set_timer(self, after_s: float | None, callback: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if after_s is None or callback is None else self._loop.call_later(after_s, callback)

    def _who(self, starts_sentence: bool = False) -> str:
        device = "Device" if starts_sentence else "device"
        if self._opened:
            return f"{device} {self.peer.name} at {self.peer_address}"
        return f"{'The' if starts_sentence else 'the'} device at {self.peer_address}"


def _address(peername: tuple[str, int] | None) -> str:
    return format_address(*peername[:2]) if peername else "an unknown address"


def format_address(host: str, port: int) -> str:
    """host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
