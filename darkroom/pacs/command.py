"""`darkroom serve-dicom`: the service around spool, receiver, lanes and sender, until it is told to stop."""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Final

import structlog

from client.config import load_config
from client.dicom_derived import Derivation
from darkroom.batch_command import deciding_options, require_model
from darkroom.batch_manifest import salt_for
from darkroom.file_denoising import denoise_file
from darkroom.output import Teller, result_line
from darkroom.pacs.addresses import DicomPeer
from darkroom.pacs.lanes import Bell, Denoising, Lane, Sending
from darkroom.pacs.metrics import PacsMetrics
from darkroom.pacs.receiver import Listening, Receiver, quiet_libraries, receiving
from darkroom.pacs.sender import Destination
from darkroom.pacs.spool import Stage, open_spool
from darkroom.pacs.tls import TlsFiles
from darkroom.store_options import StoreOptions
from darkroom.uninterrupted import ENDING
from proto.metrics import MetricsAddress, metrics_endpoint
from protocols.errors import ConfigurationError

BUSY_SECONDS: Final = (
    300.0  # for one plane of a volume, which is else begun anew; a stop waits for it (docs/pacs.md: TimeoutStopSec)
)
DEFAULT_SPOOL: Final = "dicom-spool"  # beside the configuration file
_PRIVATE_UMASK: Final = 0o077

log = structlog.get_logger()


@dataclass(frozen=True)
class PacsOptions:
    """What `serve-dicom` is told."""

    listening: Listening
    send_to: DicomPeer
    send_tls: bool
    spool: Path | None
    max_spool_bytes: int
    forward_unsupported: bool
    metrics: MetricsAddress | None  # where Prometheus finds them; None: nowhere


def tls_files(certificate: Path | None, private_key: Path | None, ca: Path | None) -> TlsFiles | None:
    """The three options as one. Raises ConfigurationError: some are missing."""
    if certificate is None and private_key is None and ca is None:
        return None
    if certificate is None or private_key is None:
        raise ConfigurationError("TLS needs a certificate and its key: give --tls-cert and --tls-key together")
    return TlsFiles(certificate, private_key, ca)


def run_serve_dicom(config_file: Path, model: str, store: StoreOptions, options: PacsOptions) -> None:
    """Receive, denoise and send on, until SIGTERM or Ctrl-C; then the objects at hand are finished and the rest is kept.

    A second signal ends at once, and the object at hand is deleted at the servers.
    Raises DarkroomError: it cannot start. KeyboardInterrupt: at the second signal.
    """
    config = load_config(config_file)
    config = config if store.key is None else config.with_noise_key(store.key)
    config.require_client()  # before anything is received: what is wrong here is wrong for every object
    config.require_edge()
    tls = options.listening.tls
    if options.send_tls and tls is None:
        raise ConfigurationError("--send-tls needs --tls-cert, --tls-key and --tls-ca")
    destination = Destination(options.send_to, our_aet=options.listening.aet, tls=tls if options.send_tls else None)

    quiet_libraries()
    warnings.simplefilter("ignore")  # pydicom's quote values of headers, from any thread
    os.umask(_PRIVATE_UMASK)
    stopping = threading.Event()
    incoming, outgoing = Bell(stopping), Bell(stopping)
    bells: Sequence[Bell] = (incoming, outgoing)
    with open_spool(options.spool or config_file.parent / DEFAULT_SPOOL, options.max_spool_bytes) as spool:
        salt = salt_for(spool.salt(), deciding_options(model, store))
        metrics = PacsMetrics(spool)
        whole = replace(store, derivation=Derivation(salt))  # each source series becomes one series, over restarts too

        def denoise(source: Path, target: Path, teller: Teller) -> None:
            denoise_file(config, source, target, model, whole, teller, wait=BUSY_SECONDS)

        denoising = Denoising(
            spool,
            denoise,
            lambda: require_model(config, model),
            outgoing.ring,
            metrics,
            forward_unsupported=options.forward_unsupported,
        )
        sending = Lane(spool, Stage.OUTGOING, Sending(spool, destination.send, metrics), outgoing)
        with (
            metrics_endpoint(options.metrics, metrics.registry) as shown,
            _graceful(stopping, bells),
            receiving(options.listening, Receiver(spool, incoming.ring, metrics)) as address,
            _beside(sending, stopping, bells),
        ):
            waiting = {stage.value: spool.count(stage) for stage in Stage}
            log.info("serves", aet=options.listening.aet, sends_to=str(options.send_to), metrics=shown, **waiting)
            result_line(f"ready: {options.listening.aet}@{address}", None)
            Lane(spool, Stage.INCOMING, denoising, incoming).run()
        log.info("stopped; the spool is kept", **{stage.value: spool.count(stage) for stage in Stage})


@contextlib.contextmanager
def _beside(lane: Lane, stopping: threading.Event, bells: Sequence[Bell]) -> Generator[None]:
    """Run a lane in a thread of its own while the block runs. A bug that ends one ends both, and is raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="dicom-sender") as pool:
        running = pool.submit(lane.run)
        running.add_done_callback(lambda _: _stop(stopping, bells))
        try:
            yield
        finally:
            _stop(stopping, bells)
        running.result()


@contextlib.contextmanager
def _graceful(stopping: threading.Event, bells: Sequence[Bell]) -> Generator[None]:
    """The first signal asks the lanes to stop; a second one interrupts."""
    # A handler runs between any two instructions of the main thread, which may hold an event's lock: so it sets none itself.
    signals: SimpleQueue[int | None] = SimpleQueue()  # whose `put` is reentrant
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        signals.put(number)

    def stop() -> None:
        if signals.get() is not None:
            _stop(stopping, bells)

    watcher = threading.Thread(target=stop, name="signals", daemon=True)
    watcher.start()
    before = {number: signal.signal(number, handle) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signals.put(None)
        watcher.join()


def _stop(stopping: threading.Event, bells: Sequence[Bell]) -> None:
    stopping.set()
    for bell in bells:
        bell.ring()
