"""HL7 v2 bridge between a laboratory information system (LIS) and the SlideCascade service. For research use only.

Orders arrive over MLLP, are stored before they are acknowledged, run as jobs through the client SDK, and are
answered with result messages from a durable outbox. ``slidecascade lis serve --config lis.yaml`` runs it.
"""
