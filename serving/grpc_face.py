"""gRPC: KServe's service; inference is read from its messages, and refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException
from kserve import InferOutput, InferResponse
from kserve.protocol.grpc.servicer import InferenceServicer

from feature_repo.errors import RequestError, StateError
from serving.requests import check_outputs, question_of
from serving.tensors import read_grpc

if TYPE_CHECKING:
    from serving.answers import Answers
    from serving.gateway import Gateway
    from serving.service import Service
    from serving.traces import Trace

_CODES = {
    408: StatusCode.DEADLINE_EXCEEDED,
    400: StatusCode.INVALID_ARGUMENT, 401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED, 404: StatusCode.NOT_FOUND,
    409: StatusCode.FAILED_PRECONDITION, 413: StatusCode.RESOURCE_EXHAUSTED,
    421: StatusCode.FAILED_PRECONDITION, 422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED, 503: StatusCode.UNAVAILABLE,
}  # fmt: skip
_HTTP = {code: status for status, code in _CODES.items()}
_OVER_HTTP = "load and unload models over HTTP, with the repository's token"
_METHOD = "inference.GRPCInferenceService/ModelInfer"
_MAX_SAID = 1000
_GIVEN_UP = 499  # counted where the caller cancelled, or its deadline came first


def servicer(gateway: Gateway) -> type[InferenceServicer]:
    """KServe's servicer for ``gateway``: KServe makes the object."""
    return type("BoundServicer", (_Servicer,), {"gateway": gateway})


class _Servicer(InferenceServicer):  # type: ignore[misc]  # kserve ships no types
    gateway: Gateway

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - protobuf's name
        """The answer to a question; its record is waited for until the call's deadline."""
        began, traces = perf_counter(), self.gateway.traces
        headers = {k.encode(): _bytes(v) for k, v in context.invocation_metadata() or ()}
        if traces is None:
            return await self._infer(request, context, headers, began, None)
        trace = traces.begin(_METHOD, {"rpc.system": "grpc"}, headers, began)
        try:
            answer = await self._infer(request, context, headers, began, trace)
        except GrpcException as exc:
            trace.end(_HTTP.get(exc.status_code, 500))
            raise
        except asyncio.CancelledError:
            trace.end(_GIVEN_UP)
            raise
        trace.end(200)
        return answer

    async def _infer(
        self, request: Any, context: Any, headers: dict[bytes, bytes], began: float,
        trace: Trace | None,
    ) -> Any:  # fmt: skip
        gateway, service = self.gateway, None
        try:
            # As HTTP has it: one caller has one share, whichever way it comes.
            address = context.peer().rpartition(":")[0].removeprefix("ipv4:")
            caller = gateway.enter(headers, address)
        except Exception as exc:
            raise _refused(gateway, exc, None, began) from exc
        gateway.metrics.open += 1
        try:
            gateway.check_caller(headers)
            service = gateway.models.get(request.model_name, request.model_version)
            if trace is not None:
                trace.served_by(service.name, service.version, service.metrics)
            answered, answers, waiting = self._answer(request, service, headers, began)
            if trace is not None:
                trace.computed()
            await self._recorded(waiting, context.time_remaining())
            answered.metrics.answered("grpc", 200, perf_counter() - began)
            return _message(request.id, answered, answers)
        except asyncio.CancelledError:
            gateway.metrics.refuse("grpc", _GIVEN_UP)
            raise
        except Exception as exc:
            raise _refused(gateway, exc, service, began) from exc
        finally:
            gateway.metrics.open -= 1
            gateway.leave(caller)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802 - protobuf
        """Refused: gRPC has no place for the repository's token."""
        raise GrpcException(status_code=StatusCode.PERMISSION_DENIED, details=_OVER_HTTP)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802 - protobuf
        """Refused, as loading is."""
        raise GrpcException(status_code=StatusCode.PERMISSION_DENIED, details=_OVER_HTTP)

    def _answer(
        self, request: Any, service: Service, headers: dict[bytes, bytes], began: float
    ) -> tuple[Service, Answers, Awaitable[None] | None]:
        """Which service answered, what, and what becomes of its record."""
        given = read_grpc(request.inputs, request.raw_input_contents)
        question = question_of(given, service.form, service.inputs, service.now())
        if request.outputs:
            check_outputs((output.name for output in request.outputs), service.form, question)
        service.metrics.phases["parse"].add(perf_counter() - began)
        enrolment = self.gateway.enrolment
        units: Sequence[str] = ()
        if enrolment is not None:
            models, version = self.gateway.models, request.model_version
            service, units = enrolment.enrol(models, service, headers, question, version)
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:128]
        answers = service.ask(question, request_id)
        waiting = service.record(answers)
        if units and enrolment is not None:
            waiting = enrolment.exposed(units, waiting)
        return service, answers, waiting

    async def _recorded(self, waiting: Awaitable[None] | None, remaining: float | None) -> None:
        """Wait for a record, as long as the server and the call's deadline allow."""
        if waiting is None:
            return
        limit = self.gateway.limits.answer_seconds
        try:
            await asyncio.wait_for(waiting, limit if remaining is None else min(limit, remaining))
        except TimeoutError:
            if remaining is not None and remaining < limit:
                raise RequestError(408, "", "the call's deadline came before its record") from None
            raise RequestError(503, "", "the answer could not be recorded in time") from None


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value  # names that end in -bin have bytes


def _refused(
    gateway: Gateway, exc: Exception, service: Service | None, began: float
) -> GrpcException:
    response = gateway.refusal("grpc", exc, service, began)
    known = isinstance(exc, RequestError | StateError)
    said = str(exc)[:_MAX_SAID] if known else "internal error; it is in the server's log"
    code = _CODES.get(response.status, StatusCode.INTERNAL)
    return GrpcException(status_code=code, details=said.encode("utf-8", "replace").decode())


def _message(request_id: str, service: Service, answers: Answers) -> Any:
    outputs = []
    for name, datatype, data in answers.outputs():
        values = [v.encode() for v in data] if datatype == "BYTES" else list(data)
        outputs.append(InferOutput(name, [len(values)], datatype, data=values))
    return InferResponse(
        response_id=request_id or answers.answered.ids[0], model_name=service.name,
        model_version=service.version, infer_outputs=outputs, parameters=answers.parameters(),
        use_binary_outputs=False,
    ).to_grpc()  # fmt: skip
