"""The admin service over the daemon's facts: a servicer without decisions. Errors go through the interceptor of the
snapshots service."""

from collections.abc import Iterator

import grpc

from protos.cvmfs.snapshotter.admin.v1 import admin_pb2 as api
from protos.cvmfs.snapshotter.admin.v1.admin_pb2_grpc import AdminServicer
from snapshotter.admin.convert import to_message
from snapshotter.admin.facts import Facts
from snapshotter.admin.values import Problem
from snapshotter.convert import blocks
from snapshotter.node import Node

_BLOCK = 100
"""Records or images in one message of a stream."""

_Context = grpc.ServicerContext


class AdminService(AdminServicer):
    """One method a question, each a translation."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def use(self, node: Node) -> None:
        """From the next question on they are answered about this one: its settings changed."""
        self._facts = self._facts.about(node)

    def Status(self, request: api.StatusRequest, context: _Context) -> api.StatusResponse:
        return to_message(self._facts.status(request.measure), api.StatusResponse)

    def ListRecords(self, request: api.ListRecordsRequest, context: _Context) -> Iterator[api.ListRecordsResponse]:
        for block in blocks(self._facts.walk(request.filters), _BLOCK):
            yield api.ListRecordsResponse(records=[to_message(record, api.Snapshot) for record in block])

    def Explain(self, request: api.ExplainRequest, context: _Context) -> api.Explanation:
        return to_message(self._facts.explain(request.name), api.Explanation)

    def Findings(self, request: api.FindingsRequest, context: _Context) -> api.Problems:
        return _problems(self._facts.findings())

    def Repair(self, request: api.RepairRequest, context: _Context) -> api.Problems:
        return _problems(self._facts.repair())

    def Backup(self, request: api.BackupRequest, context: _Context) -> api.BackupResponse:
        return to_message(self._facts.back_up(), api.BackupResponse)

    def Images(self, request: api.ImagesRequest, context: _Context) -> Iterator[api.ImagesResponse]:
        for block in blocks(self._facts.walk_images(request.pattern), _BLOCK):
            yield api.ImagesResponse(images=[to_message(image, api.ImageFacts) for image in block])

    def Image(self, request: api.ImageRequest, context: _Context) -> api.ImageFacts:
        return to_message(self._facts.get_image(request.reference), api.ImageFacts)

    def Layer(self, request: api.LayerRequest, context: _Context) -> api.LayersResponse:
        found = self._facts.get_layers(request.digest)
        return api.LayersResponse(layers=[to_message(layer, api.LayerFacts) for layer in found])

    def Malformed(self, request: api.MalformedRequest, context: _Context) -> api.Problems:
        return _problems(self._facts.malformed(request.repository))


def _problems(found: tuple[Problem, ...]) -> api.Problems:
    return api.Problems(problems=[to_message(problem, api.Problem) for problem in found])
