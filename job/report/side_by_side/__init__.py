"""Several finished runs beside each other: what they differ in, and the numbers of those that are like for like."""
