"""Middleware: processing of every request and response."""
