"""Readers by format, and audits of what they read; nothing here knows a model."""
