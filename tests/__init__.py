"""The tests. What they import of botocore is to work as it does in the program, which says how before it does."""

import job.storage.s3  # noqa: F401
