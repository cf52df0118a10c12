"""A receiver of webhooks, as a process of its own: verifies, notes what came in a file, and fails when it should.

``python webhook_receiver.py PORT FILE SECRET STATUSES``: the first requests are answered with the comma-separated
statuses, all others with 204. ``0`` closes the connection without an answer; ``-`` never answers.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def main(port: int, file: Path, secret: str, statuses: list[str]) -> None:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                Webhook(secret).verify(body, headers)
                is_verified = True
            except WebhookVerificationError:
                is_verified = False
            with lock:
                status = statuses.pop(0) if statuses else "204"
                line = {"id": headers["webhook-id"], "verified": is_verified, "body": body, "status": status}
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(line | {"path": self.path}) + "\n")
            if status == "-":
                threading.Event().wait()
            if status == "0":
                self.close_connection = True
                return
            self.send_response(int(status))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            """Nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], [part for part in sys.argv[4].split(",") if part])
