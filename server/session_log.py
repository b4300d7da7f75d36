"""What the log says of a session: public fields only."""

from proto import darkroom_pb2 as pb
from server.evaluation import EvaluationRequest


def public_fields(task: EvaluationRequest) -> dict[str, str | int]:
    """Identifiers, model, packing and size."""
    size = task.stored.size
    packing = pb.Packing.Name(task.stored.packing).removeprefix("PACKING_").lower()
    model = {"model": task.model, "packing": packing, "height": size.height, "width": size.width}
    return {"session": task.session_id, "object": task.object_id, **model}


def rounded(seconds: float) -> float:
    """To milliseconds."""
    return round(seconds, 3)
