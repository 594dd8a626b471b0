"""Fuzz targets. Their checks need no fuzzer: the tests run them on the files that a fuzzer starts from."""
