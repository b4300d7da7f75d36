from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Packing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PACKING_UNSPECIFIED: _ClassVar[Packing]
    PACKING_KEYED: _ClassVar[Packing]
    PACKING_GAUSSIAN: _ClassVar[Packing]
    PACKING_BLIND: _ClassVar[Packing]
PACKING_UNSPECIFIED: Packing
PACKING_KEYED: Packing
PACKING_GAUSSIAN: Packing
PACKING_BLIND: Packing

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("version", "wire_version", "clock", "free_memory_bytes", "free_disk_bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    version: str
    wire_version: int
    clock: float
    free_memory_bytes: int
    free_disk_bytes: int
    def __init__(self, version: _Optional[str] = ..., wire_version: _Optional[int] = ..., clock: _Optional[float] = ..., free_memory_bytes: _Optional[int] = ..., free_disk_bytes: _Optional[int] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("top", "left", "size")
    TOP_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    top: int
    left: int
    size: Size
    def __init__(self, top: _Optional[int] = ..., left: _Optional[int] = ..., size: _Optional[_Union[Size, _Mapping]] = ...) -> None: ...

class StoreHeader(_message.Message):
    __slots__ = ("object_id", "size", "packing", "packing_sigma", "seed")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    PACKING_SIGMA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    object_id: str
    size: Size
    packing: Packing
    packing_sigma: float
    seed: bytes
    def __init__(self, object_id: _Optional[str] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., packing: _Optional[_Union[Packing, str]] = ..., packing_sigma: _Optional[float] = ..., seed: _Optional[bytes] = ...) -> None: ...

class StoreRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: StoreHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[StoreHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class StoreReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("object_id",)
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    object_id: str
    def __init__(self, object_id: _Optional[str] = ...) -> None: ...

class DeleteReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DenoiseRequest(_message.Message):
    __slots__ = ("session_id", "object_id", "model", "grant", "noise_key", "sigma_share", "engine")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    NOISE_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGMA_SHARE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    object_id: str
    model: str
    grant: str
    noise_key: bytes
    sigma_share: int
    engine: str
    def __init__(self, session_id: _Optional[str] = ..., object_id: _Optional[str] = ..., model: _Optional[str] = ..., grant: _Optional[str] = ..., noise_key: _Optional[bytes] = ..., sigma_share: _Optional[int] = ..., engine: _Optional[str] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("online_seconds", "offline_seconds", "sent_bytes", "dealt_bytes", "rounds", "peak_rss_bytes", "dealer_peak_rss_bytes", "flags", "messages")
    ONLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEALT_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEALER_PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    online_seconds: float
    offline_seconds: float
    sent_bytes: int
    dealt_bytes: int
    rounds: int
    peak_rss_bytes: int
    dealer_peak_rss_bytes: int
    flags: int
    messages: _containers.RepeatedCompositeFieldContainer[MessageCost]
    def __init__(self, online_seconds: _Optional[float] = ..., offline_seconds: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., dealt_bytes: _Optional[int] = ..., rounds: _Optional[int] = ..., peak_rss_bytes: _Optional[int] = ..., dealer_peak_rss_bytes: _Optional[int] = ..., flags: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[MessageCost, _Mapping]]] = ...) -> None: ...

class MessageCost(_message.Message):
    __slots__ = ("arithmetic_seconds", "waiting_seconds", "sent_bytes")
    ARITHMETIC_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAITING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    arithmetic_seconds: float
    waiting_seconds: float
    sent_bytes: int
    def __init__(self, arithmetic_seconds: _Optional[float] = ..., waiting_seconds: _Optional[float] = ..., sent_bytes: _Optional[int] = ...) -> None: ...

class ResultHeader(_message.Message):
    __slots__ = ("channels", "size", "cost", "push_id", "engine", "packed_seed")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    PACKED_SEED_FIELD_NUMBER: _ClassVar[int]
    channels: int
    size: Size
    cost: Cost
    push_id: str
    engine: str
    packed_seed: bytes
    def __init__(self, channels: _Optional[int] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., push_id: _Optional[str] = ..., engine: _Optional[str] = ..., packed_seed: _Optional[bytes] = ...) -> None: ...

class DenoiseReply(_message.Message):
    __slots__ = ("stage", "header", "chunk", "packed_chunk")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PACKED_CHUNK_FIELD_NUMBER: _ClassVar[int]
    stage: str
    header: ResultHeader
    chunk: bytes
    packed_chunk: bytes
    def __init__(self, stage: _Optional[str] = ..., header: _Optional[_Union[ResultHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., packed_chunk: _Optional[bytes] = ...) -> None: ...

class PushModelHeader(_message.Message):
    __slots__ = ("session_id", "name", "network", "seed")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    name: str
    network: str
    seed: bytes
    def __init__(self, session_id: _Optional[str] = ..., name: _Optional[str] = ..., network: _Optional[str] = ..., seed: _Optional[bytes] = ...) -> None: ...

class PushModelRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PushModelHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[PushModelHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PushModelReply(_message.Message):
    __slots__ = ("push_id",)
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    push_id: str
    def __init__(self, push_id: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelEntry(_message.Message):
    __slots__ = ("name", "push_id", "network")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    name: str
    push_id: str
    network: str
    def __init__(self, name: _Optional[str] = ..., push_id: _Optional[str] = ..., network: _Optional[str] = ...) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelEntry]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelEntry, _Mapping]]] = ...) -> None: ...

class PeerHello(_message.Message):
    __slots__ = ("session_id", "boot_b")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_B_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    boot_b: str
    def __init__(self, session_id: _Optional[str] = ..., boot_b: _Optional[str] = ...) -> None: ...

class PeerOrder(_message.Message):
    __slots__ = ("kind", "session_id", "model", "push_id", "material_id", "plan_digest", "boot_a", "boot_b", "object_id", "contribution", "tile", "upload_id")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[PeerOrder.Kind]
        KIND_MASK: _ClassVar[PeerOrder.Kind]
        KIND_EVALUATE: _ClassVar[PeerOrder.Kind]
    KIND_UNSPECIFIED: PeerOrder.Kind
    KIND_MASK: PeerOrder.Kind
    KIND_EVALUATE: PeerOrder.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    MATERIAL_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BOOT_A_FIELD_NUMBER: _ClassVar[int]
    BOOT_B_FIELD_NUMBER: _ClassVar[int]
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    kind: PeerOrder.Kind
    session_id: str
    model: str
    push_id: str
    material_id: str
    plan_digest: bytes
    boot_a: str
    boot_b: str
    object_id: str
    contribution: bytes
    tile: int
    upload_id: str
    def __init__(self, kind: _Optional[_Union[PeerOrder.Kind, str]] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., push_id: _Optional[str] = ..., material_id: _Optional[str] = ..., plan_digest: _Optional[bytes] = ..., boot_a: _Optional[str] = ..., boot_b: _Optional[str] = ..., object_id: _Optional[str] = ..., contribution: _Optional[bytes] = ..., tile: _Optional[int] = ..., upload_id: _Optional[str] = ...) -> None: ...

class PeerAccept(_message.Message):
    __slots__ = ("order_digest", "contribution")
    ORDER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    order_digest: bytes
    contribution: bytes
    def __init__(self, order_digest: _Optional[bytes] = ..., contribution: _Optional[bytes] = ...) -> None: ...

class PeerReady(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Opening(_message.Message):
    __slots__ = ("label", "offset", "total_bytes", "chunk")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    label: int
    offset: int
    total_bytes: int
    chunk: bytes
    def __init__(self, label: _Optional[int] = ..., offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PeerMessage(_message.Message):
    __slots__ = ("hello", "order", "accept", "ready", "opening")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    hello: PeerHello
    order: PeerOrder
    accept: PeerAccept
    ready: PeerReady
    opening: Opening
    def __init__(self, hello: _Optional[_Union[PeerHello, _Mapping]] = ..., order: _Optional[_Union[PeerOrder, _Mapping]] = ..., accept: _Optional[_Union[PeerAccept, _Mapping]] = ..., ready: _Optional[_Union[PeerReady, _Mapping]] = ..., opening: _Optional[_Union[Opening, _Mapping]] = ...) -> None: ...

class OpenPushRequest(_message.Message):
    __slots__ = ("network", "boot_a", "boot_b")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    BOOT_A_FIELD_NUMBER: _ClassVar[int]
    BOOT_B_FIELD_NUMBER: _ClassVar[int]
    network: str
    boot_a: str
    boot_b: str
    def __init__(self, network: _Optional[str] = ..., boot_a: _Optional[str] = ..., boot_b: _Optional[str] = ...) -> None: ...

class OpenPushReply(_message.Message):
    __slots__ = ("push_id",)
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    push_id: str
    def __init__(self, push_id: _Optional[str] = ...) -> None: ...

class ClaimPushRequest(_message.Message):
    __slots__ = ("push_id", "boot_a", "boot_b", "network_digest")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_A_FIELD_NUMBER: _ClassVar[int]
    BOOT_B_FIELD_NUMBER: _ClassVar[int]
    NETWORK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    push_id: str
    boot_a: str
    boot_b: str
    network_digest: bytes
    def __init__(self, push_id: _Optional[str] = ..., boot_a: _Optional[str] = ..., boot_b: _Optional[str] = ..., network_digest: _Optional[bytes] = ...) -> None: ...

class ClaimPushReply(_message.Message):
    __slots__ = ("seed",)
    SEED_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    def __init__(self, seed: _Optional[bytes] = ...) -> None: ...

class OpenMaterialRequest(_message.Message):
    __slots__ = ("push_id", "size", "boot_a", "boot_b", "engine")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    BOOT_A_FIELD_NUMBER: _ClassVar[int]
    BOOT_B_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    push_id: str
    size: Size
    boot_a: str
    boot_b: str
    engine: str
    def __init__(self, push_id: _Optional[str] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., boot_a: _Optional[str] = ..., boot_b: _Optional[str] = ..., engine: _Optional[str] = ...) -> None: ...

class OpenMaterialReply(_message.Message):
    __slots__ = ("material_id",)
    MATERIAL_ID_FIELD_NUMBER: _ClassVar[int]
    material_id: str
    def __init__(self, material_id: _Optional[str] = ...) -> None: ...

class ClaimMaterialRequest(_message.Message):
    __slots__ = ("material_id", "push_id", "plan_digest", "boot_a", "boot_b")
    MATERIAL_ID_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BOOT_A_FIELD_NUMBER: _ClassVar[int]
    BOOT_B_FIELD_NUMBER: _ClassVar[int]
    material_id: str
    push_id: str
    plan_digest: bytes
    boot_a: str
    boot_b: str
    def __init__(self, material_id: _Optional[str] = ..., push_id: _Optional[str] = ..., plan_digest: _Optional[bytes] = ..., boot_a: _Optional[str] = ..., boot_b: _Optional[str] = ...) -> None: ...

class MaterialChunk(_message.Message):
    __slots__ = ("seed", "correction", "end")
    SEED_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    correction: Correction
    end: MaterialEnd
    def __init__(self, seed: _Optional[bytes] = ..., correction: _Optional[_Union[Correction, _Mapping]] = ..., end: _Optional[_Union[MaterialEnd, _Mapping]] = ...) -> None: ...

class Correction(_message.Message):
    __slots__ = ("label", "offset", "total_bytes", "chunk")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    label: int
    offset: int
    total_bytes: int
    chunk: bytes
    def __init__(self, label: _Optional[int] = ..., offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class MaterialEnd(_message.Message):
    __slots__ = ("dealer_peak_rss_bytes",)
    DEALER_PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    dealer_peak_rss_bytes: int
    def __init__(self, dealer_peak_rss_bytes: _Optional[int] = ...) -> None: ...

class WorkerJob(_message.Message):
    __slots__ = ("role", "network", "size", "material_id", "material_seed", "push_seed", "deltas", "bias_shares", "packing", "packing_sigma", "image_share", "noise_key", "sigma_share", "peer_key", "engine", "window")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MATERIAL_ID_FIELD_NUMBER: _ClassVar[int]
    MATERIAL_SEED_FIELD_NUMBER: _ClassVar[int]
    PUSH_SEED_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    BIAS_SHARES_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    PACKING_SIGMA_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SHARE_FIELD_NUMBER: _ClassVar[int]
    NOISE_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGMA_SHARE_FIELD_NUMBER: _ClassVar[int]
    PEER_KEY_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    role: str
    network: str
    size: Size
    material_id: str
    material_seed: bytes
    push_seed: bytes
    deltas: bytes
    bias_shares: bytes
    packing: Packing
    packing_sigma: float
    image_share: bytes
    noise_key: bytes
    sigma_share: int
    peer_key: bytes
    engine: str
    window: Window
    def __init__(self, role: _Optional[str] = ..., network: _Optional[str] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., material_id: _Optional[str] = ..., material_seed: _Optional[bytes] = ..., push_seed: _Optional[bytes] = ..., deltas: _Optional[bytes] = ..., bias_shares: _Optional[bytes] = ..., packing: _Optional[_Union[Packing, str]] = ..., packing_sigma: _Optional[float] = ..., image_share: _Optional[bytes] = ..., noise_key: _Optional[bytes] = ..., sigma_share: _Optional[int] = ..., peer_key: _Optional[bytes] = ..., engine: _Optional[str] = ..., window: _Optional[_Union[Window, _Mapping]] = ...) -> None: ...

class WorkerStats(_message.Message):
    __slots__ = ("ahead_seconds", "online_seconds", "rounds", "sent_bytes", "peak_rss_bytes", "flags", "messages", "nursery_private_bytes")
    AHEAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ONLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    NURSERY_PRIVATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ahead_seconds: float
    online_seconds: float
    rounds: int
    sent_bytes: int
    peak_rss_bytes: int
    flags: int
    messages: _containers.RepeatedCompositeFieldContainer[MessageCost]
    nursery_private_bytes: int
    def __init__(self, ahead_seconds: _Optional[float] = ..., online_seconds: _Optional[float] = ..., rounds: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., peak_rss_bytes: _Optional[int] = ..., flags: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[MessageCost, _Mapping]]] = ..., nursery_private_bytes: _Optional[int] = ...) -> None: ...
