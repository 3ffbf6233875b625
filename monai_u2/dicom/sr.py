# Copyright (c) monai_u2 contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""A report as DICOM structured report."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from highdicom.sr import (
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    ObservationContext,
    ObserverContext,
    TextContentItem,
)
from pydicom.uid import generate_uid

from monai_u2.dicom.document import MANUFACTURER, ReportDocument
from monai_u2.dicom.source import SourceSeries, new_instance
from monai_u2.evidence.sentences import ReportSentence, report_sentences
from monai_u2.synthesis.report_lines import HEADING

SERIES_NUMBER = 9001
_FINDINGS = (("121070", "Findings"), ("121071", "Finding"))
_IMPRESSIONS = (("121072", "Impressions"), ("121073", "Impression"))
_CONCLUSIONS = (("121076", "Conclusions"), ("121077", "Conclusion"))
_RECOMMENDATIONS = (("121074", "Recommendations"), ("121075", "Recommendation"))
_HISTORY = (("121060", "History"), ("121060", "History"))
_PROCEDURE = (("121064", "Current Procedure Descriptions"), ("121065", "Procedure Description"))
_COMPARISON = (("121068", "Previous Findings"), ("121069", "Previous Finding"))
# heading of a report -> DICOM's codes of the section (CID 7001) and of its sentences (CID 7002)
_SECTIONS = {
    "finding": _FINDINGS,
    "findings": _FINDINGS,
    "检查所见": _FINDINGS,
    "影像所见": _FINDINGS,
    "所见": _FINDINGS,
    "impression": _IMPRESSIONS,
    "impressions": _IMPRESSIONS,
    "诊断意见": _IMPRESSIONS,
    "印象": _IMPRESSIONS,
    "conclusion": _CONCLUSIONS,
    "conclusions": _CONCLUSIONS,
    "结论": _CONCLUSIONS,
    "recommendation": _RECOMMENDATIONS,
    "recommendations": _RECOMMENDATIONS,
    "history": _HISTORY,
    "indication": _HISTORY,
    "technique": _PROCEDURE,
    "comparison": _COMPARISON,
}


def structured_report(document: ReportDocument, source: SourceSeries) -> ComprehensiveSR:
    """Make a Comprehensive SR after TID 2000: a section is a container, a sentence a text in it.

    A sentence with a place refers to the slice of its peak. The whole series is listed as the report's evidence. The
    report is unverified and preliminary, and partial where it was cut off.
    """
    root = ContainerContentItem(_code("18748-4", "Diagnostic imaging report", "LN"), template_id="2000")
    root.ContentSequence = ContentSequence(_observer(document))
    root.ContentSequence.append(_comments(document))
    for section, items in groupby(report_items(document.report), key=lambda item: item.section):
        heading, element = _SECTIONS[section or "findings"]
        container = ContainerContentItem(_code(*heading), relationship_type="CONTAINS")
        container.ContentSequence = ContentSequence(
            [_text(element, item, _peak_slice(item, document), source) for item in items]
        )
        root.ContentSequence.append(container)
    return ComprehensiveSR(
        evidence=source.headers,
        content=root,
        is_complete=document.is_whole,
        is_final=False,
        is_verified=False,
        **new_instance(document, SERIES_NUMBER, document.title),
    )


def report_items(report: str) -> Iterator[ReportSentence]:
    """Split a report into sentences with the names of their regions and whatever stands between them; only headings,
    which become sections, and spaces at the ends belong to none."""
    position, section = 0, None
    for sentence in report_sentences(report):
        section = sentence.section
        yield _item(report, position, sentence.end, section)
        position = sentence.end
    if report[position:].strip():
        yield _item(report, position, len(report), section)


def _item(report: str, start: int, end: int, section: str | None) -> ReportSentence:
    text = report[start:end].lstrip()
    while (heading := HEADING.match(text)) and heading.end() < len(text):
        text = text[heading.end() :]
    return ReportSentence(text.rstrip(), end - len(text), end, section)


def _comments(document: ReportDocument) -> ContainerContentItem:
    comment = _code("121106", "Comment")
    container = ContainerContentItem(_code("121111", "Summary"), relationship_type="CONTAINS")
    container.ContentSequence = ContentSequence(
        [TextContentItem(comment, note, relationship_type="CONTAINS") for note in document.notes]
    )
    return container


def _observer(document: ReportDocument) -> ObservationContext:
    identity = f"{document.model_name} {document.model_version} {document.model_sha256}"
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[identity]),
        name=document.model_name,
        manufacturer_name=MANUFACTURER,
        model_name=f"{document.model_name} {document.model_version}",
        serial_number=document.model_sha256,
    )
    return ObservationContext(observer_device_context=ObserverContext(_code("121007", "Device"), device))


def _text(
    element: tuple[str, str], item: ReportSentence, peak_slice: int | None, source: SourceSeries
) -> TextContentItem:
    text = TextContentItem(_code(*element), item.text, relationship_type="CONTAINS")
    if peak_slice is not None:
        header, frame = source.reference(peak_slice)
        text.ContentSequence = ContentSequence(
            [
                ImageContentItem(
                    _code("121080", "Best illustration of finding"),
                    header.SOPClassUID,
                    header.SOPInstanceUID,
                    frame,
                    relationship_type="INFERRED FROM",
                )
            ]
        )
    return text


def _peak_slice(item: ReportSentence, document: ReportDocument) -> int | None:
    """Slice of the peak of the sentence's evidence; None without one."""
    for sentence in document.sentences:
        if item.start <= sentence["start"] < sentence["end"] <= item.end and sentence["place"] is not None:
            return int(round(sentence["place"]["peak_voxel"][2]))
    return None


def _code(value: str, meaning: str, scheme: str = "DCM") -> CodedConcept:
    return CodedConcept(value, scheme, meaning)
