"""Storage in S3 and in stores that speak its protocol."""

import os

# botocore takes awscrt, which is installed for its checksums, also to sign requests. It is told not to before anything
# imports it: what awscrt raises about odd credentials, s3_errors does not know.
os.environ.setdefault("BOTO_DISABLE_CRT", "true")
