"""How the service runs: BentoML, uvicorn, and the processes of models."""
