"""Operators: a folder an operator, a file a backend, one signature and one shared test."""
