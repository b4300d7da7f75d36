"""Every type that holds a secret, found by walking the packages, filled with canaries, and shown in every way that Python offers.

Messages of the wire hold secrets where their .proto marks a field `debug_redact`. A dataclass is taken to hold secrets where a
field has bytes, text, numbers or tensors that its repr leaves out; beside these stand the plain classes of `PLAIN`. A new
dataclass with a tensor or bytes in its repr is found too, unless `PUBLIC` says that the field is public.
"""

import dataclasses
import importlib
import io
import logging
import pickle
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from client.result_stream import ResultReader
from proto import darkroom_pb2 as pb
from proto.redaction import holds_secret
from protocols.dealing import PartyMaterial
from protocols.identifiers import Role
from protocols.prg import Prg
from security.needles import Needle, key_needles, number_needles, search, text_needles
from server.crypten_runtime import StreamGenerator
from server.models import WeightMasking

PACKAGES: Final = ("protocols", "proto", "client", "server", "dealer", "darkroom")
KEY: Final = bytes(range(160, 192))
TEXT: Final = "CANARY^TEXT^IN^A^FIELD"
RUN: Final = (0.73105857, 0.26894143, 0.88079708, 0.11920292)
PLAIN: Final[tuple[type, ...]] = (PartyMaterial, ResultReader, StreamGenerator, WeightMasking)
# Bytes, texts or tensors that everyone may see, though some reprs leave them out for length.
PUBLIC: Final = frozenset(
    {
        "Peer.certificate",
        "Identity.certificate",
        "Plan.network_digest",
        "OrderTerms.plan_digest",
        "Child.popen",  # Popen[bytes]
    }
)
SKIPPED: Final = frozenset({"darkroom.__main__", "dealer.__main__", "proto.darkroom_pb2", "proto.darkroom_pb2_grpc"})


def canary_needles() -> list[Needle]:
    """What must not show."""
    return [*key_needles("key", KEY), *text_needles("text", TEXT), *number_needles("tensor", RUN)]


def bearers() -> Iterator[object]:
    """One planted instance of every type of the packages that can hold bytes, texts or tensors."""
    for kind in _dataclasses():
        instance = planted(kind)
        if instance is not None:
            yield instance
    fields: dict[str, object] = {
        "_prg": planted(Prg),
        "_seed": KEY,
        "_own": [torch.tensor(RUN)],
        "_output": bytearray(KEY),
        "_role": Role.A,
        "_next": 0,
        "_plan": _EmptyPlan(),
    }
    for plain in PLAIN:
        instance = object.__new__(plain)
        instance.__dict__.update(fields)
        yield instance
    for name, descriptor in pb.DESCRIPTOR.message_types_by_name.items():
        if holds_secret(descriptor):
            yield from planted_messages(getattr(pb, name))


def showings(instance: object) -> Iterator[tuple[str, bytes]]:
    """The instance in every form: printed, formatted, logged, pickled. A refused pickle shows nothing."""
    yield "repr", repr(instance).encode()
    yield "str", f"{instance} {instance!s} {instance!a}".encode()
    yield "container", repr([instance, {"key": instance}]).encode()
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.Logger("secret types", logging.DEBUG)
    logger.addHandler(handler)
    logger.debug("%s %r %s", instance, instance, [instance])
    for renderer in (
        structlog.processors.JSONRenderer(),
        structlog.processors.KeyValueRenderer(),
        structlog.dev.ConsoleRenderer(),
    ):
        structlog.wrap_logger(structlog.PrintLogger(out), processors=[renderer]).debug("event", item=instance, items=[instance])
    yield "log", out.getvalue().encode()
    yield "pickle", pickled(instance)


def pickled(instance: object) -> bytes:
    """The pickle, or nothing where it is refused."""
    try:
        return pickle.dumps(instance)
    except (TypeError, pickle.PicklingError, AttributeError):
        return b""


def shown(instance: object, needles: list[Needle]) -> list[str]:
    """Where a canary shows: "Type: form (encoding)"."""
    name = type(instance).__name__
    return [
        f"{name}: {form} ({found[0].encoding})" for form, content in showings(instance) if (found := search(content, needles))
    ]


def planted(kind: type) -> object | None:
    """An instance whose secret fields hold canaries, made without its checks; None where no field can hold one."""
    instance: Any = object.__new__(kind)
    carries = False
    for field in dataclasses.fields(kind):
        canary = None if f"{kind.__name__}.{field.name}" in PUBLIC else _canary(field)
        carries = carries or canary is not None
        object.__setattr__(instance, field.name, "public" if canary is None else canary)
    return instance if carries else None


def planted_messages(kind: type[Message]) -> Iterator[Message]:
    """Messages of one type, one for each way to a secret field (of a oneof only one is set), each with canaries."""
    for field in kind.DESCRIPTOR.fields:
        if field.GetOptions().debug_redact:
            canary: object = {
                FieldDescriptor.TYPE_BYTES: KEY,
                FieldDescriptor.TYPE_STRING: TEXT,
                FieldDescriptor.TYPE_SFIXED64: int.from_bytes(KEY[:8], "little", signed=True),
            }[field.type]
            yield kind(**{field.name: canary})
        elif field.message_type is not None and holds_secret(field.message_type):
            yield from (kind(**{field.name: inner}) for inner in planted_messages(getattr(pb, field.message_type.name)))


def _canary(field: "dataclasses.Field[Any]") -> object | None:
    """What to plant in a field: by its annotation; texts and numbers only where repr leaves the field out."""
    if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
        return planted(field.type)
    annotation = str(field.type)
    if "Ed25519PrivateKey" in annotation:
        return Ed25519PrivateKey.from_private_bytes(KEY)
    if "Tensor" in annotation or any(kind in annotation for kind in ("Int64", "Float64")):
        return {"key": torch.tensor(RUN)} if "dict[" in annotation or "Mapping[" in annotation else torch.tensor(RUN)
    if "bytes" in annotation:
        return KEY
    if not field.repr and annotation in ("str", "<class 'str'>"):
        return TEXT
    return None


def _dataclasses() -> Iterator[type]:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if module.name in SKIPPED or module.name.endswith(".__main__"):
                continue
            for kind in vars(importlib.import_module(module.name)).values():
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name:
                    yield kind


@dataclass(frozen=True)
class _EmptyPlan:
    """Stands where PartyMaterial's repr asks for a plan."""

    correlations: tuple[()] = ()


@dataclass(frozen=True)
class CarelessKey:
    """The twin: a secret in a plain dataclass."""

    value: bytes


def tried(instances: list[object]) -> Mapping[str, int]:
    """How many types of each package were tried."""
    counts: dict[str, int] = {}
    for instance in instances:
        package = type(instance).__module__.split(".")[0]
        counts[package] = counts.get(package, 0) + 1
    return counts
