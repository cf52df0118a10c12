"""An issuer of tokens on loopback: its document, its keys, and tokens signed with them."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "slidecascade"


class Issuer:
    """Serves ``/.well-known/openid-configuration`` and ``/keys`` until the block ends.

    `rotate` gives it another key; while `is_away` it answers 503. `asked` counts requests for its keys.
    While `hold` is cleared it does not answer, and sets `waits` when it is asked.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.is_away = False
        self.hold, self.waits = threading.Event(), threading.Event()
        self.hold.set()
        self.keys: dict[str, Any] = {}
        self.rotate("first")
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not issuer.hold.is_set():
                    issuer.waits.set()
                    issuer.hold.wait(60)
                content = issuer.documents().get(self.path)
                status = 503 if issuer.is_away else 404 if content is None else 200
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def rotate(self, number: str, *, elliptic: bool = False) -> None:
        """Publish a new key, and no other."""
        made = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        self.keys = {number: made}

    def documents(self) -> dict[str, Any]:
        if not self.is_away:
            self.asked += 1
        return {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [*map(self.public, self.keys), {"kty": "odd", "kid": "odd"}, {"kty": "RSA"}]},
        }

    def public(self, number: str) -> dict[str, Any]:
        """The public half of a key, as a JWK."""
        key = self.keys[number].public_key()
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else ECAlgorithm
        return {**algorithm.to_jwk(key, as_dict=True), "kid": number, "use": "sig"}

    def token(self, *, algorithm: str | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A valid token of the subject `jane`, but for what is given; None removes a claim."""
        number, key = next(iter(self.keys.items()))
        usual = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        stated = {"iss": self.url, "aud": AUDIENCE, "sub": "jane", "exp": time.time() + 60} | claims
        kept = {name: value for name, value in stated.items() if value is not None}
        named = {name: value for name, value in ({"kid": number} | (header or {})).items() if value is not None}
        return jwt.encode(kept, key, algorithm or usual, named)
