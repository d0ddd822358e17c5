"""Errors of the API: RFC 9457 problem details, one stable code for each kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from pricer.errors import one_line

MEDIA_TYPE = "application/problem+json"
# code: status and title
PROBLEMS = {
    "bad-request": (400, "The request cannot be read"),
    "unauthorized": (401, "No API key, or an unknown one"),
    "not-found": (404, "There is nothing here"),
    "unknown-estimate": (404, "There is no estimate with this id"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "The request is not JSON"),
    "misdirected": (421, "The request is for another host"),
    "invalid-json": (422, "The body is not JSON"),
    "invalid-request": (422, "The request is not valid"),
    "unknown-variant": (422, "There is no variant with this name"),
    "unknown-interval": (422, "No interval of this level can be had"),
    "internal": (500, "The service has failed"),
    "queue-full": (503, "Too many products wait"),
    "log-unavailable": (503, "The log cannot be written"),
    "shutting-down": (503, "The service is about to end"),
    "not-ready": (503, "The service is not ready"),
    "timeout": (504, "There was no answer in time"),
}


class Problem(Exception):
    """An error that a caller is told.

    Attributes:
        code: of PROBLEMS.
        detail: what, got, allowed, next step.
        errors: of single fields: `field` as a JSON pointer, `message`, and `product`, counted from
            0, where it is one product's.
        headers: of the response.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Make an error; `retry_after_s` is when the same request may succeed."""
        super().__init__(detail)
        self.code, self.detail, self.errors = code, one_line(detail), list(errors)
        self.status, self.title = PROBLEMS[code]
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    def body(self) -> dict[str, Any]:
        """Return what the response holds."""
        body = {
            "type": f"urn:problem-type:pricer:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        return body | ({"errors": self.errors} if self.errors else {})
