"""Workers without processes: they speak the pipe's protocol over memory and send zeros where a worker sends masked values."""

import threading
from collections import deque

from proto import darkroom_pb2 as pb
from protocols.engines import SessionPlan, session_plan
from protocols.identifiers import Role
from protocols.network import Network
from server.pipe import Kind, Pipe

SECONDS = 20


class MemorySocket:
    """One end of a socket pair in memory; as much of a socket as `Pipe` uses."""

    def __init__(self):
        self._condition = threading.Condition()
        self._received = deque()
        self._ended = False
        self._peer = None

    @classmethod
    def pair(cls):
        left, right = cls(), cls()
        left._peer, right._peer = right, left
        return left, right

    def setsockopt(self, *_):
        """Buffers are as large as they need to be."""

    def sendall(self, buffer):
        with self._peer._condition:
            if self._peer._ended or self._ended:
                raise BrokenPipeError
            if len(buffer):
                self._peer._received.append(bytes(buffer))
                self._peer._condition.notify_all()

    def recv_into(self, view):
        with self._condition:
            self._condition.wait_for(lambda: self._received or self._ended)
            if not self._received:
                return 0
            chunk = self._received.popleft()
            count = min(len(chunk), len(view))
            view[:count] = chunk[:count]
            if count < len(chunk):
                self._received.appendleft(chunk[count:])
            return count

    def recv(self, length, _):
        """All of it, as with MSG_WAITALL, or what there is before the end."""
        buffer, filled = bytearray(length), 0
        while filled < length and (count := self.recv_into(memoryview(buffer)[filled:])):
            filled += count
        return bytes(buffer[:filled])

    def shutdown(self, _):
        for end in (self, self._peer):
            with end._condition:
                end._ended = True
                end._condition.notify_all()

    def close(self):
        self.shutdown(None)


class NarrowSocket(MemorySocket):
    """Takes what is sent only while its gate is open; a pair begins with open gates."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def sendall(self, buffer):
        if not self.gate.wait(SECONDS):
            raise BrokenPipeError
        super().sendall(buffer)


def memory_pipes():
    return tuple(Pipe(end) for end in MemorySocket.pair())


class FakeWorker:
    """Stands for `WorkerProcess`; its output share is the object's own share, so that results can be recognised."""

    running = True
    nursery_peak_rss_bytes = 300

    def __init__(self, log, behaviour, jobs, arrivals):
        self.pipe, self._theirs = memory_pipes()
        self._log, self._behaviour, self._jobs, self._arrivals = log, behaviour, jobs, arrivals
        self.stopped = False
        self.gone = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def kill(self):
        self.pipe.interrupt()
        if not self._behaviour.get("clings"):
            self.gone.set()

    def ended(self, seconds):
        return self.gone.wait(seconds)

    def stop(self):
        self.stopped = True
        self.pipe.close()
        if not self._behaviour.get("clings"):
            self.gone.set()
        self.gone.wait()

    def _serve(self):
        try:
            self._evaluate(self._theirs)
        except (OSError, EOFError):
            pass
        finally:
            self._theirs.close()

    def _evaluate(self, pipe):
        job = pb.WorkerJob.FromString(_frame(pipe, Kind.JOB)[1])
        plan = session_plan(job.engine, Network.from_json(job.network), job.window.size.height, job.window.size.width)
        self._log.append((job.role, job.material_id))
        self._jobs.append(job)
        self._arrivals.release()
        if Role(job.role) is Role.B:
            for index, size in enumerate(plan.correction_sizes):
                label, payload = _frame(pipe, Kind.CORRECTION)
                assert (label, len(payload)) == (index, size)
        if self._behaviour.get((Role(job.role), "ready")) == "hangs":
            pipe.receive_header()
            raise EOFError
        pipe.send(Kind.READY)
        _frame(pipe, Kind.GO)
        for index in range(plan.rounds):
            self._open(pipe, plan, index, Role(job.role))
        flags = self._flags(Role(job.role))
        stats = pb.WorkerStats(
            ahead_seconds=0.25,
            online_seconds=0.5,
            rounds=plan.rounds,
            sent_bytes=100,
            peak_rss_bytes=1000 + len(self._log),
            flags=flags,
            nursery_private_bytes=self._behaviour.get("nursery private", 0),
        )
        pipe.send(Kind.STATS, stats.SerializeToString())
        if not flags:
            pipe.send(Kind.RESULT, job.image_share)

    def _flags(self, role: Role) -> int:
        """Flagged wires of this evaluation: the next of the list that the test has left."""
        left = self._behaviour.get((role, "flags"), [])
        return left.pop(0) if left else 0

    def _open(self, pipe: Pipe, plan: SessionPlan, index: int, role: Role):
        match self._behaviour.get((role, index)):
            case "dies":
                raise EOFError
            case "fails":
                pipe.send(Kind.FAILED, b"LocalProtocolError: on purpose")
                raise EOFError
            case "hangs":
                pipe.receive_header()
                raise EOFError
        pipe.send(Kind.OPENING, bytes(plan.opened_words(index) * 8), index)
        label, _ = _frame(pipe, Kind.OPENING)
        assert label == index


def _frame(pipe, kind):
    header = pipe.receive_header()
    if header is None or header.kind is not kind:
        raise EOFError
    return header.label, bytes(pipe.receive_bytes(header.length))


class FakeWorkers:
    """Stands for `WorkerPool`. log: jobs that arrived, `jobs` whole; arrivals: released for each.

    behaviour: (role, opening or "ready") to "dies", "fails" or "hangs"; (role, "flags") to the flags of each evaluation;
    "clings": true where a worker that is killed lives on until the test sets its `gone`.
    """

    def __init__(self):
        self.behaviour = {}
        self.log = []
        self.jobs = []
        self.taken = []
        self.spares = []
        self.arrivals = threading.Semaphore(0)

    def take(self, _=0):
        self.taken.append(FakeWorker(self.log, self.behaviour, self.jobs, self.arrivals))
        return self.taken[-1]

    def keep_spare(self, size):
        self.spares.append(size)

    def require_warm(self):
        """There is always one."""
