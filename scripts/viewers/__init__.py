"""Pictures in every format, and what an ordinary viewer shows of them, for the tests of the decoder."""
