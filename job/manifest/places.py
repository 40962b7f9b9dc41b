"""The places that a manifest names: paths and URIs, each checked for the schemes that may stand at its key."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from job.storage import hub
from job.storage.backends import BACKENDS
from job.storage.s3.environment import A_REGION, AN_ENDPOINT, endpoint_problem, is_region
from job.storage.uris import SHIPPED

_STORES = {scheme: backend.form for scheme, backend in BACKENDS.items()}
_SHIPPED = {SHIPPED: f"{SHIPPED}://name"}
_HUB = {hub.SCHEME: hub.FORM}
_KNOWN = _STORES | _HUB | _SHIPPED
_GOOGLE = "; Google Cloud Storage is s3:// with storage.endpoint_url"


class SchemeError(ValueError):
    """A URI of a scheme that is not allowed, or one that is misspelt; `suggestion` is what was probably meant."""

    def __init__(self, allowed: str, suggestion: str | None) -> None:
        super().__init__(allowed)
        self.suggestion = suggestion


def _address(value: str) -> str:
    """Refuse credentials, which would end up in logs and results, and text that is no single line."""
    if re.match(r"[A-Za-z0-9+.-]+://[^/]*@", value):
        raise ValueError("an address without credentials; they come from the environment")
    if "\n" in value or "\t" in value:
        raise ValueError("one line without tabs")
    return value


def _endpoint(value: str) -> str:
    """Refuse what is the address of no store."""
    if (problem := endpoint_problem(_address(value))) is not None:
        raise ValueError(f"{AN_ENDPOINT} (it {problem})")
    return value


def _region(value: str) -> str:
    """Refuse what is the name of no region."""
    if not is_region(value):
        raise ValueError(A_REGION)
    return value


def _place_in(forms: dict[str, str]) -> Callable[[str], str]:
    """A check for a plain path or a URI of one of the schemes in `forms`, which says how each is written.

    A colon may stand in a path: `a:b` and `./s3:/x` are files. A known scheme without its slashes is a misspelt URI.
    """

    def check(value: str) -> str:
        if value.startswith("~"):
            raise ValueError("a path without ~, which only a shell resolves; ./~ if it is a name")
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)", value)
        if match is None:
            return _address(value)
        written, slashes, known = match[1], match[2], match[1].lower()
        if "//" not in slashes and known not in _KNOWN:
            return _address(value)
        if written not in forms or "//" not in slashes:
            meant = f"{known}://{'/' * (known == 'file')}{value[match.end() :]}" if known in forms else None
            allowed = ", ".join(("a path", *forms.values()))
            raise SchemeError(allowed + _GOOGLE * (known in ("gs", "gcs")), meant)
        return _address(value)

    return check


def _revision(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9._/+]{0,199}", value) or ".." in value:
        raise ValueError("a commit, tag or branch: up to 200 letters, digits and ._/+-")
    return value


_Address = Annotated[str, Field(min_length=1, max_length=1024)]
Endpoint = Annotated[_Address, AfterValidator(_endpoint)]
Region = Annotated[str, AfterValidator(_region)]
Destination = Annotated[_Address, AfterValidator(_place_in(_STORES))]
DataSource = Annotated[_Address, AfterValidator(_place_in(_STORES | _SHIPPED))]
ModelSource = Annotated[_Address, AfterValidator(_place_in(_KNOWN))]
Revision = Annotated[str, AfterValidator(_revision)]
