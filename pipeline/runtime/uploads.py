"""From the body of a request to the bytes of one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from pipeline.runtime.classifier import is_image
from pipeline.runtime.refusals import Refusal

_PLAIN = frozenset(
    {"image/jpeg", "image/jpg", "image/png", "application/octet-stream", "image/*"}
)
_FORM = "multipart/form-data"
_MOST_PARTS = 8
_WANTED = "send a JPEG or PNG as image/jpeg, image/png or a file of multipart/form-data"


def image_of(environ: Mapping[str, Any], largest: int) -> bytes:
    """Return the encoded image of a request.

    What is sent is told by its first bytes; its Content-Type only says how it is wrapped.

    Args:
        environ: of WSGI, its body read by the server already.
        largest: bytes of the body.

    Raises:
        Refusal: 413 for a larger body, 415 for one of another type, 422 for an empty one, 400
            for a form that can't be read.
    """
    kind = str(environ.get("CONTENT_TYPE", ""))
    plain = kind.split(";")[0].strip().lower()
    if plain not in _PLAIN and plain != _FORM:
        raise Refusal(415, f"{_WANTED}.")
    body: IO[bytes] = environ["wsgi.input"]
    content = body.read(largest + 1)
    if len(content) > largest:
        raise Refusal(413, f"the body has more than {largest:,} bytes.")
    image = _of_form(content, kind) if plain == _FORM else content
    if not image:
        raise Refusal(422, "the image is empty.")
    if not is_image(image):
        raise Refusal(415, f"the image is neither a JPEG nor a PNG; {_WANTED}.")
    return image


def _of_form(content: bytes, kind: str) -> bytes:
    """Return the only file of a form.

    Raises:
        Refusal: 400 where there is none, or more than one, or the form is malformed.
    """
    from io import BytesIO

    import multipart

    boundary = multipart.parse_options_header(kind)[1].get("boundary", "")
    if not boundary:
        raise Refusal(400, "the form has no boundary.")
    try:
        parser = multipart.MultipartParser(
            BytesIO(content),
            boundary,
            len(content),
            part_limit=_MOST_PARTS,
            spool_limit=len(content),  # the body is in memory: no part goes to the disk
            memory_limit=len(content),
        )
        files = [part.file.read() for part in parser.parts() if part.filename is not None]
    except (multipart.MultipartError, ValueError) as error:
        raise Refusal(400, "the form cannot be read.") from error  # its words quote the form
    if len(files) != 1:
        raise Refusal(400, f"the form has {len(files)} files; send one image.")
    return bytes(files[0])
