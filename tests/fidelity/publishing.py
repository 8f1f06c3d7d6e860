"""Images into a repository, in each form that a node may find there."""

from enum import Enum
from pathlib import Path

from cvmfsrepo.oci import Platform, Reference
from cvmfsrepo.tree import Notation
from publisher.opening import open_source
from publisher.publishing import form as forms
from publisher.publishing.publish import publish_image
from tests.images.ocilayout import Image

INGEST_OWNER = (993, 990)


class Form(Enum):
    """`OVERLAY` and `OCI` are our publisher's two notations; `INGESTED` is what a real server's ingest leaves;
    `DUCC` the same without anything of ours beside it."""

    OVERLAY = "overlay"
    OCI = "oci"
    INGESTED = "ingested"
    DUCC = "ducc"


_FORMS = {
    Form.OVERLAY: forms.Form(),
    Form.OCI: forms.Form(Notation.OCI),
    Form.INGESTED: forms.Form(Notation.OCI, as_ingested=True, owner=INGEST_OWNER),
    Form.DUCC: forms.Form(Notation.OCI, as_ingested=True, owner=INGEST_OWNER, record=False),
}


def publish(image: Image, repository: Path, reference: str, form: Form = Form.OVERLAY) -> None:
    """In this process, without waiting for the disk."""
    repository.mkdir(parents=True, exist_ok=True)
    source = open_source(image.source, Platform("linux", "amd64"))
    publish_image(source, repository, _FORMS[form], Reference.parse(reference), durable=False)
