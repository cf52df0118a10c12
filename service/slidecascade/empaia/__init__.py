"""Adapter for apps of the EMPAIA platform (App API v3): one job of the platform, analysed by a server."""
