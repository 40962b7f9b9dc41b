"""Storage in S3 and in stores that speak its protocol."""
