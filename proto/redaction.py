"""Messages with secret fields show their type and size alone, and refuse pickling: nobody logs a key by logging a request.

Which fields are secret stands in the .proto, as the standard field option `debug_redact`. Python's protobuf does not heed that
option (7.36), so the generated stubs end with a call of `redact`. Protobuf's own serialisation is as it was; so are its explicit
converters (`text_format`, `json_format`), which no code of ours calls.
"""

from collections.abc import Mapping
from typing import Any, NoReturn, SupportsIndex

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import Message


def redact(file: FileDescriptor, namespace: Mapping[str, Any]) -> None:
    """Redact every message type of `file` that can hold a secret, itself or in a message inside it.

    namespace: the generated module's, with the types by name.
    """
    for name, descriptor in file.message_types_by_name.items():
        if holds_secret(descriptor):
            kind: Any = namespace[name]
            kind.__repr__ = kind.__str__ = _shown
            kind.__reduce_ex__ = _refused


def holds_secret(descriptor: Descriptor) -> bool:
    """Whether a message of this type can hold a field marked `debug_redact`. Our messages do not nest in themselves."""
    return any(
        field.GetOptions().debug_redact or (field.message_type is not None and holds_secret(field.message_type))
        for field in descriptor.fields
    )


def _shown(message: Message) -> str:
    return f"<{message.DESCRIPTOR.name}, {message.ByteSize()} bytes>"


def _refused(message: Message, protocol: SupportsIndex) -> NoReturn:
    raise TypeError(f"{message.DESCRIPTOR.name} can hold secrets and is not pickled; use SerializeToString")
