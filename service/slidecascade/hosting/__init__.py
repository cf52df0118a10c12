"""Hosts the service: BentoML, uvicorn and the model processes."""
