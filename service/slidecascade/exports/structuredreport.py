"""The summary as a DICOM structured report: TID 1500, Imaging Measurement Report.

Part 16 of the DICOM standard, TID 1500, 1501, 1001 and 4019, in a Comprehensive 3D SR. A measurement group for
each class has its figures; everything is preliminary, partial and unverified. Figures without a standard code have
a private or a configured one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

from pydicom import Dataset, dcmwrite

from slidecascade import wire
from slidecascade.exports.dicomcodes import Codes, code, read_codes
from slidecascade.exports.dicomobject import digests, new_object, new_uid, number, reference_to, versions
from slidecascade.exports.dicomsource import DicomSlide, derived_uid, read_slide
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.inputs import Inputs

COMPREHENSIVE_3D: Final = "1.2.840.10008.5.1.4.1.1.88.34"
"""Comprehensive 3D SR Storage."""
_CONTAINS, _CONTEXT, _MODIFIER = "CONTAINS", "HAS OBS CONTEXT", "HAS CONCEPT MOD"
_NO_UNITS: Final = ("1", "no units")
_PERCENT: Final = ("%", "percent")
_MM2: Final = ("mm2", "square millimeter")
_PER_MM2: Final = ("/mm2", "per square millimeter")


def structured_report(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The DICOM file.

    Raises:
        InvalidRequestError: the source slide or the codes cannot be used.
    """
    slide = read_slide(inputs, folder.summary)
    report = _Report(folder.summary, slide, read_codes(inputs.dicom_codes, folder.classes))
    buffer = io.BytesIO()
    dcmwrite(buffer, report.document(), enforce_file_format=True)
    yield buffer.getvalue()


class _Report:
    """The content tree of a summary."""

    def __init__(self, summary: wire.Summary, slide: DicomSlide, codes: Codes) -> None:
        self._summary = summary
        self._slide = slide
        self._codes = codes

    def document(self) -> Dataset:
        made = new_object(self._summary, self._slide, sop_class=COMPREHENSIVE_3D, modality="SR")
        made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "PARTIAL", "UNVERIFIED", "PRELIMINARY"
        made.CompletionFlagDescription = self._summary.research_use_only
        made.PerformedProcedureCodeSequence = []
        made.ReferencedPerformedProcedureStepSequence = []
        root = _container(_dcm("126000", "Imaging Measurement Report"), self._children(), template="1500")
        made.update(root)
        if self._slide.image is not None:
            series, study = Dataset(), Dataset()
            series.SeriesInstanceUID = self._slide.image.SeriesInstanceUID
            series.ReferencedSOPSequence = [reference_to(self._slide.image)]
            study.StudyInstanceUID, study.ReferencedSeriesSequence = self._slide.image.StudyInstanceUID, [series]
            made.CurrentRequestedProcedureEvidenceSequence = [study]
        return made

    def _children(self) -> Iterator[Dataset]:
        language = _dcm("121049", "Language of Content Item and Descendants")
        yield _coded(_MODIFIER, language, code("en", "RFC5646", "English"))
        yield from self._observer()
        yield from self._specimen()
        procedure = self._codes.of("procedure", "image-analysis", "Image analysis of a slide")
        yield _coded(_MODIFIER, _dcm("121058", "Procedure reported"), procedure)
        if self._slide.image is not None:
            image = _item(_CONTAINS, "IMAGE", None)
            image.ReferencedSOPSequence = [reference_to(self._slide.image)]
            group = _container(_dcm("126200", "Image Library Group"), [image], relation=_CONTAINS)
            yield _container(_dcm("111028", "Image Library"), [group], relation=_CONTAINS)
        groups = [self._of_class(name) for name in self._names()]
        groups.append(self._of_region())
        yield _container(_dcm("126010", "Imaging Measurements"), groups, relation=_CONTAINS)
        comment = _dcm("121106", "Comment")
        yield _text(_CONTAINS, comment, self._summary.research_use_only)
        for warning in self._summary.warnings:
            yield _text(_CONTAINS, comment, f"Warning {warning.code}: {warning.message}")

    def _observer(self) -> Iterator[Dataset]:
        """The software is the observer (TID 1004)."""
        summary = self._summary
        yield _coded(_CONTEXT, _dcm("121005", "Observer Type"), _dcm("121007", "Device"))
        device = derived_uid(f"device/{summary.pipeline}/{'/'.join(digests(summary))}")
        yield _uid(_CONTEXT, _dcm("121012", "Device Observer UID"), device)
        yield _text(_CONTEXT, _dcm("121013", "Device Observer Name"), f"SlideCascade {summary.pipeline}")
        yield _text(_CONTEXT, _dcm("121014", "Device Observer Manufacturer"), "SlideCascade")

    def _specimen(self) -> Iterator[Dataset]:
        """The subject is the specimen, where it is known (TID 1009)."""
        for specimen in self._slide.identifiers.get("SpecimenDescriptionSequence", [])[:1]:
            yield _coded(_CONTEXT, _dcm("121024", "Subject Class"), _dcm("121027", "Specimen"))
            yield _uid(_CONTEXT, _dcm("121039", "Specimen UID"), specimen.SpecimenUID)
            yield _text(_CONTEXT, _dcm("121041", "Specimen Identifier"), specimen.SpecimenIdentifier)

    def _names(self) -> list[str]:
        """Everything that has figures."""
        summary = self._summary
        patches = summary.patches.classes if summary.patches else {}
        parts = (summary.counts, summary.fractions, summary.densities_per_mm2, summary.areas or {}, patches)
        return list(dict.fromkeys(name for part in parts for name in part))

    def _of_class(self, name: str) -> Dataset:
        summary = self._summary
        figures = []
        if name in summary.counts:
            figures.append(self._figure("count", "Number of objects", summary.counts[name], _NO_UNITS))
        if (share := summary.fractions.get(name)) is not None:
            value = None if share.value is None else 100 * share.value
            figures += [
                self._figure("fraction", "Fraction of objects", value, _PERCENT),
                self._figure("numerator", "Numerator of the fraction", share.numerator, _NO_UNITS),
                self._figure("denominator", "Denominator of the fraction", share.denominator, _NO_UNITS),
                _coded(
                    _CONTAINS,
                    self._codes.of("denominator-class", "denominator-of", "Objects counted as denominator"),
                    self._codes.of_class(share.of),
                ),
            ]
        if name in summary.densities_per_mm2:
            density = summary.densities_per_mm2[name]
            figures.append(self._figure("density", "Objects per area of tissue", density, _PER_MM2))
        if summary.areas and name in summary.areas:
            figures.append(_measured(_area(), summary.areas[name].area_mm2, _MM2))
        if summary.patches and name in summary.patches.classes:
            figures.append(_measured(_area(), summary.patches.classes[name].area_mm2, _MM2))
        return self._group(name, self._codes.of_class(name), figures)

    def _of_region(self) -> Dataset:
        """The areas that the figures refer to."""
        region = self._codes.of("region", "region", "Analysed region")
        tissue = self._codes.of("tissue-area", "tissue-area", "Area of analysed tissue")
        areas = [
            _measured(_area(), self._summary.area_mm2, _MM2),
            _measured(tissue, self._summary.tissue_area_mm2, _MM2),
        ]
        return self._group("Analysed region", region, areas)

    def _figure(self, key: str, meaning: str, value: float | None, unit: tuple[str, str]) -> Dataset:
        return _measured(self._codes.of(key, key, meaning), value, unit)

    def _group(self, name: str, finding: Dataset, figures: Iterable[Dataset]) -> Dataset:
        """A measurement group (TID 1501) with the identification of the algorithm (TID 4019)."""
        summary = self._summary
        children = [
            _text(_CONTEXT, _dcm("112039", "Tracking Identifier"), name),
            _uid(_CONTEXT, _dcm("112040", "Tracking Unique Identifier"), new_uid()),
            _coded(_CONTAINS, _dcm("121071", "Finding"), finding),
            _text(_MODIFIER, _dcm("111001", "Algorithm Name"), summary.pipeline),
            _text(_MODIFIER, _dcm("111003", "Algorithm Version"), versions(summary)),
            *(_text(_MODIFIER, _dcm("111002", "Algorithm Parameters"), digest) for digest in digests(summary)),
            *figures,
        ]
        return _container(_dcm("125007", "Measurement Group"), children, relation=_CONTAINS, template="1501")


def _dcm(value: str, meaning: str) -> Dataset:
    return code(value, "DCM", meaning)


def _area() -> Dataset:
    return code("42798000", "SCT", "Area")


def _item(relation: str | None, kind: str, name: Dataset | None) -> Dataset:
    made = Dataset()
    if relation is not None:
        made.RelationshipType = relation
    made.ValueType = kind
    if name is not None:
        made.ConceptNameCodeSequence = [name]
    return made


def _container(
    name: Dataset, children: Iterable[Dataset], *, relation: str | None = None, template: str | None = None
) -> Dataset:
    made = _item(relation, "CONTAINER", name)
    made.ContinuityOfContent = "SEPARATE"
    if template is not None:
        identification = Dataset()
        identification.MappingResource, identification.TemplateIdentifier = "DCMR", template
        made.ContentTemplateSequence = [identification]
    made.ContentSequence = list(children)
    return made


def _text(relation: str, name: Dataset, text: str) -> Dataset:
    made = _item(relation, "TEXT", name)
    made.TextValue = text
    return made


def _uid(relation: str, name: Dataset, uid: str) -> Dataset:
    made = _item(relation, "UIDREF", name)
    made.UID = uid
    return made


def _coded(relation: str, name: Dataset, value: Dataset) -> Dataset:
    made = _item(relation, "CODE", name)
    made.ConceptCodeSequence = [value]
    return made


def _measured(name: Dataset, value: float | None, unit: tuple[str, str]) -> Dataset:
    """A number; without one, the reason is a denominator of 0."""
    made = _item(_CONTAINS, "NUM", name)
    if value is None:
        made.MeasuredValueSequence = []
        made.NumericValueQualifierCodeSequence = [_dcm("114003", "Divide by zero")]
        return made
    measured = Dataset()
    measured.NumericValue = number(value)
    measured.MeasurementUnitsCodeSequence = [code(unit[0], "UCUM", unit[1])]
    made.MeasuredValueSequence = [measured]
    return made
