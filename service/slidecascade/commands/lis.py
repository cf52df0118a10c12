"""``slidecascade lis``: the bridge to a laboratory information system, and tools for it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from slidecascade import logs
from slidecascade.commands.arguments import whole_number
from slidecascade.errors import InvalidRequestError, SettingsError
from slidecascade_lis.bridge import require_receivers, serve
from slidecascade_lis.config import LisConfig, read_config
from slidecascade_lis.peer import PeerUnavailableError
from slidecascade_lis.records import MessageRecord, Undelivered
from slidecascade_lis.seal import new_key
from slidecascade_lis.simulator import OrderPlan, ResultReceiver, Tally, send_message, simulate
from slidecascade_lis.store import Store, open_store

DONE, FAILED = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    serving = actions.add_parser("serve", help="take orders over MLLP and answer them with results")
    serving.set_defaults(act=_serve)
    listed = actions.add_parser("messages", help="list received messages, the newest first, or answers by state")
    listed.add_argument("--state", choices=("pending", "delivered", "dead"), help="list answers in this state")
    listed.add_argument("--limit", type=whole_number(1), default=100)
    listed.set_defaults(act=_messages)
    shown = actions.add_parser("show", help="show a message with its reply, orders and answers (patient data)")
    shown.add_argument("id")
    shown.set_defaults(act=_show)
    resend = actions.add_parser("resend", help="deliver answers again")
    resend.add_argument("id", help="of a message or an order, or MSH-10 of an answer")
    resend.set_defaults(act=_resend)
    key = actions.add_parser("key", help="print a new key for store.key_file or pseudonym_key_file")
    key.set_defaults(act=_key)
    rekey = actions.add_parser("rekey", help="encrypt the store with the first key of store.key_file")
    rekey.set_defaults(act=_rekey)
    for action in (serving, listed, shown, resend, rekey):
        action.add_argument("--config", type=Path, required=True, metavar="FILE", help="lis.yaml")
    send = actions.add_parser("send", help="send a file with a message or a batch and print the reply")
    send.add_argument("file", type=Path)
    send.set_defaults(act=_send)
    simulated = actions.add_parser("simulate", help="act as a LIS: send orders, receive results, count both")
    simulated.add_argument("--slide", required=True, help="for OBR-13")
    simulated.add_argument("--pipeline", required=True, help="for OBR-4")
    simulated.add_argument("--orders", type=whole_number(1), default=10)
    simulated.add_argument("--rate", type=float, default=1.0, metavar="HZ", help="orders a second")
    simulated.add_argument("--connections", type=whole_number(1), default=4)
    simulated.add_argument("--result-port", type=whole_number(0), default=2576, help="where results are received")
    simulated.add_argument(
        "--wait", type=float, default=600.0, metavar="S", help="for results after the last order"
    )
    simulated.set_defaults(act=_simulate)
    for action in (send, simulated):
        action.add_argument("--host", default="127.0.0.1")
        action.add_argument("--port", type=whole_number(1), default=2575)


def run(options: argparse.Namespace) -> int:
    """Run the action; returns the exit code."""
    act: Callable[[argparse.Namespace], int] = options.act
    return act(options)


def _serve(options: argparse.Namespace) -> int:
    config = read_config(options.config)
    logs.configure()
    asyncio.run(serve(config))
    return DONE


def _messages(options: argparse.Namespace) -> int:
    with _store(options) as store, store.transaction() as change:
        if options.state:
            for answer in change.outgoing(states=(options.state,))[-options.limit :]:
                sys.stdout.write(_answer_line(answer))
        else:
            for message in change.messages(limit=options.limit):
                sys.stdout.write(_message_line(message))
    return DONE


def _show(options: argparse.Namespace) -> int:
    with _store(options) as store, store.transaction() as change:
        message = change.message(options.id)
        if message is None and (order := change.order(options.id)) is not None:
            message = change.message(order.message_id)
        if message is None:
            raise InvalidRequestError(
                "There is no message or order with this id: `slidecascade lis messages` lists them."
            )
        sys.stdout.write(
            _message_line(message) + _indented(message.content) + "reply\n" + _indented(message.reply)
        )
        for order in change.orders_in(message.id):
            job = order.job_id or "no job yet"
            sys.stdout.write(f"order {order.id}  {order.state}  {order.analysis.pipeline}  {job}\n")
        for answer in change.outgoing(message_id=message.id):
            sys.stdout.write("answer " + _answer_line(answer) + _indented(answer.content))
    return DONE


def _resend(options: argparse.Namespace) -> int:
    with _store(options) as store, store.transaction() as change:
        count = change.resend(options.id)
        require_receivers(read_config(options.config), change)
    if not count:
        raise InvalidRequestError("There is no answer with this id: `slidecascade lis messages` lists them.")
    sys.stdout.write(f"{count} queued\n")
    return DONE


def _key(_options: argparse.Namespace) -> int:
    sys.stdout.write(new_key() + "\n")
    return DONE


def _rekey(options: argparse.Namespace) -> int:
    if read_config(options.config).store.key_file is None:
        raise SettingsError("There is no key: name a file with keys in store.key_file.")
    with _store(options) as store:
        after: Sequence[object] = ()
        while True:
            with store.transaction() as change:
                after = change.seal_again(after)
            if not after:
                break
    sys.stdout.write("The store is encrypted with the first key; the others are not needed any more.\n")
    return DONE


def _send(options: argparse.Namespace) -> int:
    try:
        text = options.file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{options.file} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{options.file} is not text in UTF-8: convert it.") from error
    try:
        sys.stdout.write(asyncio.run(send_message(text, host=options.host, port=options.port)) + "\n")
    except PeerUnavailableError as error:
        sys.stderr.write(
            f"slidecascade: {options.host}:{options.port} did not reply ({error.reason}): check that "
            "`slidecascade lis serve` runs there, and --host and --port against `listen` of its configuration.\n"
        )
        return FAILED
    return DONE


def _simulate(options: argparse.Namespace) -> int:
    if options.rate <= 0:
        raise InvalidRequestError("--rate must be greater than 0.")
    plan = OrderPlan(options.slide, options.pipeline, options.orders, options.rate, options.connections)
    tally = Tally()
    started = time.monotonic()
    asyncio.run(_simulated(plan, tally, options))
    sys.stdout.write(tally.report(time.monotonic() - started))
    return FAILED if tally.lost or tally.doubled or tally.rejected else DONE


async def _simulated(plan: OrderPlan, tally: Tally, options: argparse.Namespace) -> None:
    receiver = ResultReceiver(tally, port=options.result_port)
    try:
        await receiver.start()
    except OSError as error:
        raise SettingsError(f"Port {options.result_port} is taken: choose another --result-port.") from error
    await simulate(plan, tally, host=options.host, port=options.port, wait_s=options.wait)
    await receiver.stop()


@contextmanager
def _store(options: argparse.Namespace) -> Iterator[Store]:
    config: LisConfig = read_config(options.config)
    path = config.store.path()
    if path is not None and not path.exists():
        raise SettingsError(f"There is no store at {path} yet: start `slidecascade lis serve` first.")
    store = open_store(config.store)
    try:
        yield store
    finally:
        store.close()


def _message_line(message: MessageRecord) -> str:
    state = "accepted" if message.accepted else "rejected"
    return f"{message.id}  {_time(message.received_at)}  {message.kind}  {state}\n"


def _answer_line(answer: Undelivered) -> str:
    reason = f"  {answer.reason}" if answer.reason else ""
    return (
        f"{answer.control_id}  {_time(answer.created_at)}  to {answer.receiver}  {answer.state}  "
        f"{answer.attempts} tries  of message {answer.message_id}{reason}\n"
    )


def _indented(content: str) -> str:
    return "".join(f"    {line}\n" for line in content.split("\r") if line)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
