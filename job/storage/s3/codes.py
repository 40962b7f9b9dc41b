"""The table of what stores, STS and KMS answer: which refusals pass by themselves, and what helps against the others.

A code says what is wrong; the HTTP status beside it does not always: S3 gives 400 with `RequestTimeout`, STS with
`IDPCommunicationError` and `ThrottlingException`. So the status decides only about codes that no table knows.
"""

import re
from dataclasses import dataclass

NO_OBJECT = {"NoSuchKey", "404"}
CHANGED = {"PreconditionFailed", "412"}  # the object is not the one that the request was for

# Codes, without the `Exception` that some services add to the same words. After one of these, the same request may well
# succeed when it is sent again.
_PASSING = {
    # The body arrived damaged.
    "BadDigest",
    "IncompleteBody",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    # Another writer changed the object at the same moment.
    "ConditionalRequestConflict",
    "OperationAborted",
    # The service is busy.
    "BandwidthLimitExceeded",
    "LimitExceeded",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttled",
    "Throttling",
    "TooManyRequests",
    # The service, or one that it needs, does not work just now.
    "DependencyTimeout",
    "IDPCommunicationError",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "KMSInternal",
    "KeyUnavailable",
    "RequestTimeout",
    "ServiceUnavailable",
    "TemporarilyUnavailable",
    "TemporaryRedirect",
    "XMinioServerNotInitialized",
}

_KEYS = "Check the key and secret, storage.region and storage.endpoint_url."
_KMS = "Enable the KMS key that encrypts this bucket or object, or use another bucket."
_IDENTITY = (
    "Check AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, and the role's trust policy: it has to name this cluster's "
    "identity provider and this service account."
)
_PAYER = (
    "The bucket's owner lets whoever asks pay, and this program sends no such request: copy the data to a bucket of "
    "your own, or have requester pays switched off."
)
_FULL = "Make room in the store, or raise its quota."
_LARGE = "Let the store, or the server before it, take larger requests: nginx has client_max_body_size for that."
_REDIRECT = (
    "Name the address to which it sends on in storage.endpoint_url, often the same with https://, or set "
    "storage.region to the bucket's region."
)
PROXY_USER = "Write the proxy's user and password into HTTP_PROXY or HTTPS_PROXY: http://user:password@host:port."
_REMEDIES = {
    "NoSuchBucket": "Create the bucket or correct its name, storage.region and storage.endpoint_url.",
    "InvalidAccessKeyId": "Give this store's key in AWS_ACCESS_KEY_ID, and check storage.endpoint_url.",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY, storage.region and storage.endpoint_url.",
    "InvalidClientTokenId": _KEYS,
    "UnrecognizedClient": _KEYS,
    "ExpiredToken": "Renew the credentials; a role that the platform provides renews itself.",
    "TokenRefreshRequired": "Renew the credentials; a role that the platform provides renews itself.",
    "InvalidToken": "Check AWS_SESSION_TOKEN; unset it where the key is a permanent one.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "RequestExpired": "Set this machine's clock.",
    "PermanentRedirect": "Set storage.region to the bucket's region.",
    "301": _REDIRECT,
    "302": _REDIRECT,
    "303": _REDIRECT,
    "307": _REDIRECT,
    "308": _REDIRECT,
    "AuthorizationHeaderMalformed": "Set storage.region to the bucket's region.",
    "IllegalLocationConstraint": "Set storage.region to the bucket's region.",
    "InvalidIdentityToken": _IDENTITY,
    "IDPRejectedClaim": _IDENTITY,
    "RegionDisabled": "Have STS activated in that region, or set AWS_REGION to another.",
    "InvalidObjectState": "The object is archived: restore it, or store it in a class that is read at once.",
    "KMS.Disabled": _KMS,
    "KMS.KMSInvalidState": _KMS,
    "KMS.NotFound": _KMS,
    "UserProjectMissing": _PAYER,
    "XMinioStorageFull": _FULL,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "EntityTooLarge": _LARGE,
    "413": _LARGE,
    "407": PROXY_USER,
    "400": "Correct the URI and the storage settings; so answers, for one, a port that wants https:// to http://.",
}
_NEVER = {501, 505, 507}  # statuses of a server's own trouble that stays
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "Unauthorized", "UnauthorizedAccess"}
_SERVICES = {
    "AssumeRole": "AWS STS",
    "AssumeRoleWithSAML": "AWS STS",
    "AssumeRoleWithWebIdentity": "AWS STS",
    "GetRoleCredentials": "AWS IAM Identity Center",
    "CreateToken": "AWS IAM Identity Center",
}


@dataclass(frozen=True)
class Refusal:
    """What a service's answer means.

    Attributes:
        service: that refused, for messages.
        wanted: the permission, such as `kms:GenerateDataKey`, that the answer names; None where it names none.
        passes: whether the same request may soon succeed.
        remedy: what helps; None where nothing but the code is known.
    """

    service: str
    wanted: str | None
    passes: bool
    remedy: str | None


def is_passing(code: str, status: int) -> bool:
    """Whether the same request may soon succeed, by the code, and by the HTTP status where the code is not known."""
    plain = _plain(code)
    if plain.removeprefix("KMS.") in _PASSING:
        return True
    if plain in _REMEDIES or plain in _DENIED:
        return False
    return status in {408, 429} or not (400 <= status < 500 or status in _NEVER)


def refusal_of(operation: str, code: str, status: int, message: str) -> Refusal:
    """The meaning of a service's answer to the operation.

    Args:
        message: the service's own words, of which only the name of a permission is taken.
    """
    found = re.search(r"\bperform:? ([a-z0-9-]{2,30}:[A-Z][A-Za-z0-9]{2,60})\b", message)
    wanted = found[1] if found else None
    is_kms = code.startswith("KMS.") or (wanted or "").startswith("kms:")
    service = "AWS KMS" if is_kms else _SERVICES.get(operation, "The store")
    if is_passing(code, status):
        return Refusal(service, wanted, passes=True, remedy=None)
    if re.search(r"request(er)?[- ]pay", message, re.IGNORECASE):
        return Refusal(service, "requester pays", passes=False, remedy=_PAYER)
    remedy = _REMEDIES.get(_plain(code))
    if remedy is None and (status in {401, 403} or _plain(code) in _DENIED):
        remedy = _allow(operation, wanted)
    return Refusal(service, wanted, passes=False, remedy=remedy)


def _allow(operation: str, wanted: str | None) -> str:
    """The remedy for a permission that is not there."""
    if wanted is not None and wanted.startswith("kms:"):
        return f"Allow these credentials {wanted} in the policy of the bucket's KMS key, and in their own."
    if operation in _SERVICES:
        return f"Allow this identity {wanted or operation}: {_IDENTITY[:1].lower()}{_IDENTITY[1:]}"
    return (
        f"Allow these credentials {wanted or operation} there; s3:GetObject, s3:PutObject, s3:DeleteObject and "
        "s3:ListBucket are needed."
    )


def _plain(code: str) -> str:
    return code.removesuffix("Exception")
