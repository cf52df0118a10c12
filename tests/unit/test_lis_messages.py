"""Messages of the LIS bridge: its reader against hl7apy, and what it writes against HL7's own structures."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.lis.standin import SUMMARY
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given
from hypothesis import strategies as st

from lis_messages import message, msh, new_order, number, order, pid
from slidecascade.errors import SettingsError
from slidecascade.wire.results import AreaShare
from slidecascade_lis.config import LisConfig, Rule, read_config
from slidecascade_lis.er7 import Delimiters, Message, Segment, components, read_lines, read_message
from slidecascade_lis.orders import Analysis, check_header, read_orders
from slidecascade_lis.outcome import Outcome, cancelled, failed, succeeded
from slidecascade_lis.records import OrderRecord
from slidecascade_lis.rejection import SEQUENCE, UNKNOWN_KEY, Finding, Place, RejectedMessageError
from slidecascade_lis.replies import OrderAnswer, Party, acknowledgement, application_response, patient_segment
from slidecascade_lis.results import result_messages

CONFIG = LisConfig.model_validate(
    {
        "orders": {"slide": {"take": ["OBR-13"]}, "pipeline": {"take": ["OBR-4"]}},
        "receivers": {"lis": {"host": "127.0.0.1", "port": 1, "messages": ["ORU^R01", "OUL^R21"]}},
        "results": {"pointers": [{"code": ["cells", "Cells", "99T"], "url": "https://host/v1/jobs/{job}/result"}]},
    }
)


def read(text: str) -> Message:
    return read_message(read_lines(text))


def check_with_hl7apy(text: str) -> None:
    """Raises where a message does not have the structure that HL7 2.5.1 gives it."""
    parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()


@pytest.mark.parametrize("name", ["oml_o33_order.hl7", "oul_r21_result.hl7"])
def test_components_are_those_that_hl7apy_reads(shared_data: Path, name: str) -> None:
    """Every component of every field of real messages."""
    text = (shared_data / "lis" / name).read_text(encoding="utf-8").replace("\n", "\r")
    mine = read(text)
    oracle = parse_message(text, validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False)
    compared = 0
    for segment, expected in zip(mine.segments, oracle.children, strict=True):
        for field in expected.children:
            number_of_field = int(field.name.split("_")[1])
            if segment.name == "MSH" and number_of_field < 3:
                continue
            first = segment.raw(number_of_field).split("~")[0]
            if first != field.to_er7():
                continue  # a later repetition
            for at, part in enumerate(field.to_er7().split("^"), start=1):
                assert segment.text(number_of_field, at) == part.split("&")[0].strip()
                compared += 1
    assert compared > 30


def test_a_real_order_of_a_specimen_is_read(shared_data: Path) -> None:
    """The slide is in OBR-13 and the pipeline in the specimen's type, as the sample's system sends them."""
    text = (shared_data / "lis" / "oml_o33_order.hl7").read_text(encoding="utf-8")
    config = LisConfig.model_validate(
        {
            "orders": {"slide": {"take": ["OBR-13"], "pattern": ".*/([^/]+)"}, "pipeline": {"take": ["SPM-4"]}},
            "receivers": {"lis": {"host": "127.0.0.1", "port": 1}},
        }
    )
    real = read(text)
    check_header(real)
    (item,) = read_orders(real, config.orders, pseudonym_key=None)
    assert item.analysis == Analysis(slide="SLIDE_ID", pipeline="MODEL_NAME")
    assert item.placer == "SLIDEBARCODE"


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("0,50,100,200", (0, 50, 100, 200)),
        (" 0, 50; 100 x 200 ", (0, 50, 100, 200)),
        ("0,-50,100,200", None),
        ("0,\u221250,100,200", None),
        ("0 - 50,100,200", None),
        ("+0,+50,100,200", None),
        ("0.5,100,200", None),
        ("1e3,100,200", None),
    ],
)
def test_a_region_has_whole_numbers_without_signs(text: str, region: tuple[int, ...] | None) -> None:
    """A sign or a point is not a separator: the region would be another one."""
    rules = CONFIG.orders.model_copy(update={"region": Rule(default=text)})
    if region is not None:
        (item,) = read_orders(read(new_order()), rules, pseudonym_key=None)
        assert item.analysis is not None
        assert item.analysis.region == region
        return
    with pytest.raises(RejectedMessageError, match="not x,y,width,height in whole pixels"):
        read_orders(read(new_order()), rules, pseudonym_key=None)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("OML^O33^OML_O33", ["SPM|1|a", *order("1"), "SPM|2|b", order("2")[1]]),
        ("OML^O21^OML_O21", [*order("1"), order("2")[1]]),
        ("ORM^O01", [*order("1", control="CA"), order("2")[1]]),
    ],
)
def test_a_second_request_of_an_order_is_rejected(kind: str, lines: list[str]) -> None:
    """One without its own ORC, which would not be analysed, is no part of an accepted message."""
    with pytest.raises(RejectedMessageError) as caught:
        read_orders(read(message(msh(kind), pid(), *lines)), CONFIG.orders, pseudonym_key=None)
    (finding,) = caught.value.findings
    assert (finding.text, finding.code, finding.place) == (
        "An order has one OBR: send an ORC before each.",
        SEQUENCE,
        Place("OBR", 2),
    )


def test_requests_of_earlier_results_are_no_orders() -> None:
    """OBR of PRIOR_RESULT, after the PID within an order, is neither analysed nor a fault."""
    prior = [pid(), order("0")[1], "OBX|1|NM|x||1"]
    lines = [*order("1"), *prior, *order("2"), "SPM|1|s"]
    items = read_orders(read(message(msh(), pid(), *lines)), CONFIG.orders, pseudonym_key=None)
    assert [item.placer for item in items] == ["1", "2"]


@pytest.mark.parametrize("marks", ["|^~\\&", "#*~!&"])
def test_a_header_is_written_with_its_delimiters_once(marks: str) -> None:
    """MSH-1 and MSH-2 are the delimiters, so that MSH-3 stays MSH-3 in messages that are printed and stored."""
    field, component = marks[0], marks[1]
    text = marks.join(("MSH", "")) + field.join(("", "HIS", "WARD", "", "", "", "", f"OML{component}O21", "M-1"))
    written = read(text).msh.encoded(Delimiters("|"))
    assert written == "MSH|^~\\&|HIS|WARD|||||OML^O21|M-1"
    assert read(written).control_id == "M-1"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("listen: {prot: 1}", "listen.prot is invalid: there is no such field, correct its name or remove it"),
        ("listen: {host: 10.0.0.1}", "listen is invalid: beyond loopback `tls` is required"),
        ("listen: {port: -1}", "listen.port is invalid: it must be greater than or equal to 0"),
        ("orders: {slide: {take: [OBR-13]}}", "orders.pipeline is invalid: it is required, add it"),
        ("listen: 2575", "listen is invalid: it must be a mapping of fields"),
    ],
)
def test_an_invalid_configuration_is_reported_in_a_sentence(tmp_path: Path, change: str, sentence: str) -> None:
    """With the field and the remedy, and nothing of the validator's own words."""
    path = tmp_path / "lis.yaml"
    orders = "orders: {slide: {take: [OBR-13]}, pipeline: {take: [OBR-4]}}"
    receivers = "receivers: {lis: {host: 127.0.0.1, port: 1}}"
    path.write_text("\n".join([change, receivers] + ([] if change.startswith("orders") else [orders])))
    with pytest.raises(SettingsError) as caught:
        read_config(path)
    assert sentence in caught.value.detail
    assert "Value error" not in caught.value.detail


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=40))
def test_escaped_text_is_read_back(text: str) -> None:
    """With the standard delimiters and with others, and it never ends its component."""
    for delimiters in (Delimiters(), Delimiters("#", "!", "*", "%", "@")):
        header = f"MSH{delimiters.field}{delimiters.msh_2}{delimiters.field}\r"
        line = f"ZZZ{delimiters.field}{components(delimiters, text, 'end')}\r"
        for segment in (read(header + line).segments[1], _recoded(read(header + line).segments[1])):
            assert segment.text(1) == text.strip()
            assert segment.text(1, 2) == "end"


def _recoded(segment: Segment) -> Segment:
    return read(f"MSH|^~\\&|\r{segment.encoded(Delimiters())}\r").segments[1]


def made_order(text: str, kind: str) -> OrderRecord:
    """An order as the bridge stores that of a message."""
    given_message = read(text)
    context = "".join(
        f"{segment.encoded(Delimiters())}\r" for segment in given_message.segments if segment.name != "MSH"
    )
    return OrderRecord(
        id=kind,
        message_id="m",
        sender="HIS|WARD",
        placer="4711",
        receiver="lis",
        state="submitted",
        analysis=Analysis(slide="s", pipeline="nash"),
        context=context,
        processing="T",
        job_id="j",
        attempts=0,
        created_at=0.0,
        ended_at=None,
    )


@pytest.mark.parametrize(
    "outcome", [succeeded(SUMMARY, "j"), cancelled(), failed("The analysis failed: a | in it.")]
)
def test_results_have_the_structure_of_hl7(outcome: Outcome) -> None:
    """ORU^R01 and OUL^R21 pass hl7apy's strict validation, repeat MSH-11 of the order, and are never final."""
    text = message(msh(), pid(), *order("4711"), "SPM|1|S-1||TISS")
    results = result_messages(made_order(text, "f"), outcome, CONFIG)
    for result in results:
        check_with_hl7apy(result.content)
        sent = read(result.content)
        assert sent.msh.text(11) == "T"
        assert [segment.text(25) for segment in sent.segments if segment.name == "OBR"] == [
            "P" if outcome.summary else "X"
        ]
        assert {segment.text(11) for segment in sent.segments if segment.name == "OBX"} <= {"P", "X"}
    assert [result.content.count("\rSPM|") for result in results] == [1, 0]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ((0.4, 0.02, 0.05), [("40", "%", "P"), ("^0.02^/^0.05", "mm2", "P")]),
        ((0.4, None, None), [("40", "%", "P"), ("", "mm2", "X")]),
        ((None, 0.0, 0.0), [("", "%", "X"), ("^0^/^0", "mm2", "P")]),
    ],
)
def test_area_fractions_have_their_areas(
    share: tuple[float | None, float | None, float | None], expected: list[tuple[str, str, str]]
) -> None:
    """Under their titles, as parts of the tissue; without a value where they have none."""
    value, numerator_mm2, denominator_mm2 = share
    fat = AreaShare(
        title="Area of fat over area of tissue",
        value=value,
        numerator_mm2=numerator_mm2,
        denominator_mm2=denominator_mm2,
        class_name="Fat",
        model="liver-fat",
    )
    summary = SUMMARY.model_copy(update={"area_fractions": {"fat": fat}})
    result = result_messages(made_order(new_order(), "f"), succeeded(summary, "j"), CONFIG)[0]
    check_with_hl7apy(result.content)
    seen = [one for one in read(result.content).segments if one.name == "OBX" and "area-" in one.text(3)]
    assert [one.text(3, 2) for one in seen] == [fat.title, "Area of Fat to area of tissue"]
    assert [(one.raw(5), one.text(6), one.text(11)) for one in seen] == expected


@pytest.mark.parametrize("kind", ["OML^O21^OML_O21", "OML^O33^OML_O33", "ORM^O01^ORM_O01"])
def test_replies_have_the_structure_of_hl7(kind: str) -> None:
    """Responses with orders and with errors, and plain acknowledgements. hl7apy requires every
    alternative of the order details in ORR^O02, so that its orders cannot be checked."""
    asked = read(new_order(number(), kind=kind))
    asked_segments = (*asked.segments[2:], *read(message(msh(), "SPM|1|S-1||TISS")).segments[1:])
    answer = OrderAnswer("OK", "SC", "filler-1", asked_segments)
    own = Party("SLIDECASCADE", "")
    patient = patient_segment(asked, (3, 5))
    finding = Finding(UNKNOWN_KEY, "There is no slide 'a|b'.", Place("OBR", 1, 13))
    for text in (
        application_response(asked, "AA", [answer], (), own=own, patient=patient),
        application_response(asked, "AE", (), [finding], own=own, patient=patient),
        acknowledgement(asked, "CA", own=own),
    ):
        if not ("ORR" in text and "ORC" in text):
            check_with_hl7apy(text)
        assert read(text).first("MSA") is not None
