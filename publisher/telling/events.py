"""What happens in a publication, in DUCC's vocabulary, so that whoever reads DUCC's notifications can read these."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import uuid4


class Action(StrEnum):
    """The kinds of events, spelt as DUCC spells them."""

    START_RUN = "start_ducc"
    END_RUN = "end_ducc"
    START_LAYER = "start_layer_conversion"
    END_LAYER = "end_layer_conversion"
    PUBLISH_LAYER = "publish_layer"
    START_FLAT = "start_flat_conversion"
    END_FLAT = "end_flat_conversion"
    PUBLISH_FLAT = "publish_flat_image"
    START_PODMAN = "start_podman_ingestion"
    END_PODMAN = "end_podman_ingestion"


def _now() -> datetime:
    return datetime.now().astimezone()


def _new_id() -> str:
    return str(uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. The start and the end of the same work share an `id`; `elapsed` is in seconds and
    `size` in bytes, None where they mean nothing; `image` and `layer` say what it is about, `error` is empty where all
    went well."""

    action: Action
    id: str = field(default_factory=_new_id)
    at: datetime = field(default_factory=_now)
    elapsed: float | None = None
    size: int | None = None
    image: str = ""
    layer: str = ""
    status: str = ""
    error: str = ""
