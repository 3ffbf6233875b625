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

"""Each stage alone: what it asks, what it keeps and what it rejects."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from monai_u2.chat_client import ChatAnswer
from monai_u2.exceptions import InputError
from monai_u2.synthesis import (
    AnswerStage,
    CitationJudgeStage,
    FilterStage,
    MultipleChoiceStage,
    QuestionStage,
    RefineStage,
    ReportThinkingStage,
    RewriteStage,
    Stage,
    TranslationStage,
    make_stages,
)
from monai_u2.synthesis.stage import Outcome, Row
from monai_u2.synthesis.stages import STAGES
from tests.synthesis.paraphrases import source_and_paraphrase

REPORT = "There is a 20 mm nodule in the right upper lobe.\nNo pleural effusion.\nA stone is seen in the left kidney."
ROW: Row = {"image": "a.nii.gz", "case_key": "c", "row": "c", "report": REPORT, "question": "Describe this CT."}
THINKING = "There is a 20 mm nodule in the right upper lobe [1]. No pleural effusion goes with it [2]."
ANSWERED = {**ROW, "question": "Is there a nodule?", "thinking": THINKING, "answer": "Yes, a nodule of 2 cm [1]."}


def told(stage: Stage, row: Row, answer: dict[str, Any]) -> Outcome:
    return stage.outcome(row, ChatAnswer(text=json.dumps(answer), finish_reason="stop"))


def reasons(outcome: Outcome) -> list[str]:
    return [problem.reason for _, problem in outcome.rejected]


def question(text: str, *lines: int) -> dict[str, Any]:
    return {"question": text, "lines": list(lines)}


def test_questions() -> None:
    items = [
        question("Is there a nodule?", 1),
        question("is there a nodule?", 1),
        question("What does line 3 say?", 3),
        question("What does the report say of the kidneys?", 3),
        question("Is there a mass [1]?", 1),
        question("Is the nodule unchanged?", 1),
        question("Is there an effusion?", 9),
        question("Is there an effusion?"),
        question(" ", 1),
        question("Gibt es einen Rundherd, und wo liegt er in der Lunge auf dem Bild?", 1),
        question("Which kidney has a stone?", 3),
        question("One more?", 1),
    ]
    outcome = told(QuestionStage(11), ROW, {"questions": items})
    assert [(row["question"], row["row"]) for row in outcome.kept] == [
        ("Is there a nodule?", "c-00"),
        ("Which kidney has a stone?", "c-10"),
    ]
    expected = ["duplicate", "mentions_report", "mentions_report", "mentions_report", "comparison", "unknown_line"]
    assert reasons(outcome) == [*expected, "missing_citation", "empty", "other_language", "too_many"]
    assert reasons(told(QuestionStage(), ROW, {"questions": []})) == ["empty"]


def test_answers() -> None:
    outcome = told(AnswerStage(), ANSWERED, {"thinking": THINKING, "answer": "Yes, a nodule of 2 cm [1]."})
    assert outcome.rejected == [] and outcome.kept[0]["citations"] == [1, 2]
    for thinking, answer, reason in [
        (THINKING, "Yes, a nodule.", "missing_citation"),
        (THINKING, "Yes, a nodule of 3 cm [1].", "wrong_number"),
        (THINKING, "No nodule [1].", "contradiction"),
        (THINKING, "", "empty"),
        ("Let me think. It is clear.", "Yes, a nodule [1].", "vacuous"),
        (THINKING.replace("[1]", "[1, 7]"), "Yes, a nodule [1].", "unknown_line"),
        (f"{THINKING} It has not changed since the previous CT.", "Yes, a nodule [1].", "comparison"),
    ]:
        assert reasons(told(AnswerStage(), ANSWERED, {"thinking": thinking, "answer": answer})) == [reason]


def test_a_filter_keeps_only_what_is_affirmed() -> None:
    stage = FilterStage()
    yes = {"reason": "r", "proper_question": True, "right_answer": True}
    assert told(stage, ANSWERED, yes).kept == [ANSWERED]
    assert reasons(told(stage, ANSWERED, {**yes, "right_answer": False})) == ["wrong_answer"]
    assert reasons(told(stage, ANSWERED, {**yes, "proper_question": False})) == ["improper_question"]
    assert reasons(told(stage, ANSWERED, {"proper_question": True})) == ["wrong_schema"]
    assert reasons(stage.outcome(ANSWERED, ChatAnswer(text=None))) == ["refusal"]


def test_refinement_keeps_the_draft() -> None:
    better = "The right upper lobe holds a 20 mm nodule [1]."
    outcome = told(RefineStage(), ANSWERED, {"thinking": better})
    assert (outcome.kept[0]["thinking"], outcome.kept[0]["thinking_draft"]) == (better, THINKING)
    assert reasons(told(RefineStage(), ANSWERED, {"thinking": "The left upper lobe holds a nodule [1]."})) == [
        "contradiction"
    ]


NODULE = {"region": "Lungs and airways", "statement": "A 20 mm nodule in the right upper lobe [1]."}
STONE = {"region": "Kidneys and urinary tract", "statement": "A stone in the left kidney [3]."}
WHOLE = {
    "findings": [NODULE, STONE],
    "impression": ["Nodule in the right upper lobe [1]."],
    "follow_up": ["CT in 3 months for the nodule [1]."],
}


def test_report_thinking() -> None:
    notes = [
        {"question": "Q?", "thinking": "First. ", "answer": "A"},
        {"question": "R?", "thinking": "2", "answer": "B"},
    ]
    row = {**ROW, "notes": notes}
    stage = ReportThinkingStage()
    assert "Question: Q?\nThinking: First. \nAnswer: A" in stage.material(row)
    made = told(stage, row, WHOLE).kept[0]
    assert made["thinking_before"] == "First. \n2" and "notes" not in made
    assert made["thinking_after"].splitlines() == [
        "Findings:",
        "Lungs and airways: A 20 mm nodule in the right upper lobe [1].",
        "Kidneys and urinary tract: A stone in the left kidney [3].",
        "Impression:",
        "Nodule in the right upper lobe [1].",
        "Follow-up rationale:",
        "CT in 3 months for the nodule [1].",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"findings": [STONE, NODULE]}, "anatomical_order"),
        ({"findings": [NODULE]}, "uncovered_finding"),
        ({"findings": [{**NODULE, "region": "Head"}]}, "wrong_schema"),
        ({"findings": []}, "empty"),
        ({"follow_up": []}, "empty"),
        ({"follow_up": ["CT for the nodule."]}, "missing_citation"),
        ({"follow_up": ["CT for the nodule of 25 mm [1]."]}, "wrong_number"),
        ({"impression": ["Nodule in the right upper lobe."]}, "missing_citation"),
        ({"impression": ["The nodule has grown [1]."]}, "comparison"),
        ({"impression": ["Nodule in the left upper lobe [1]."]}, "contradiction"),
        ({"impression": ["Das ist ein Rundherd in der Lunge, und er ist nicht klein [1]."]}, "other_language"),
    ],
)
def test_report_thinking_that_is_rejected(change: dict[str, Any], reason: str) -> None:
    assert reasons(told(ReportThinkingStage(), ROW, {**WHOLE, **change})) == [reason]


def test_rewritings() -> None:
    good = "A nodule of 2 cm lies in the right upper lobe. There is no pleural effusion. The left kidney holds a stone."
    texts = [
        good,
        good,
        REPORT,
        good.replace("2 cm", "3 cm"),
        good.replace("right", "upper"),
        good.replace("The left kidney holds a stone.", "No stone in the left kidney."),
        good.replace("There is no pleural effusion.", "There is no pleural nodule.").replace("A nodule", "An effusion"),
        good.replace("The left kidney holds a stone.", "Left kidney."),
        f"{good} It is unchanged.",
        "A fourth one",
    ]
    outcome = told(RewriteStage(9), ROW, {"rewritings": texts})
    assert [row["report"] for row in outcome.kept] == [good] and outcome.kept[0]["source_report"] == REPORT
    expected = ["duplicate", "duplicate", "changed_numbers", "changed_sides", "changed_denials", "changed_denials"]
    assert reasons(outcome) == [*expected, "uncovered_finding", "comparison", "too_many"]


def test_phantom_reports_in_other_words_are_kept_and_exchanged_findings_are_not() -> None:
    stage, findings = RewriteStage(2), re.compile(r"\b(nodule|consolidation|aneurysm|stone|hydronephrosis|cyst)\b")
    exchanged = 0
    for number in range(25):
        source, paraphrase = source_and_paraphrase(number)
        found = findings.search(source) if "No pleural effusion." in source else None
        texts = [paraphrase]
        if found:
            denied = source.replace("No pleural effusion.", "No @.")
            texts.append(re.sub(found[0], "pleural effusion", denied, flags=re.IGNORECASE).replace("@", found[0]))
            exchanged += 1
        outcome = told(stage, {**ROW, "report": source}, {"rewritings": texts})
        assert [row["report"] for row in outcome.kept] == [paraphrase], outcome.rejected
        assert set(reasons(outcome)) <= {"changed_denials"}
    assert exchanged > 5


def test_multiple_choice() -> None:
    item = {"question": "Where is the nodule?", "right": "Right upper lobe", "lines": [1]}
    wrong = ["Left upper lobe", "Right lower lobe", "Left lower lobe"]
    stage = MultipleChoiceStage(9)
    items = [
        {**item, "wrong": wrong},
        {**item, "wrong": wrong[:2]},
        {**item, "wrong": [*wrong[:2], "right upper lobe"]},
        {**item, "right": "Left lung", "wrong": wrong},
        {**item, "question": "Where does the report see it?", "wrong": wrong},
    ]
    outcome = told(stage, ROW, {"questions": items})
    assert reasons(outcome) == ["bad_options", "bad_options", "contradiction", "mentions_report"]
    kept = outcome.kept[0]
    letter, _, right = kept["answer"].partition(". ")
    assert right == "Right upper lobe" and kept["options"]["ABCD".index(letter)] == right
    assert (
        kept["question"].splitlines()[0] == "Where is the nodule?" and kept["answer"] in kept["question"].splitlines()
    )
    letters = {
        told(stage, {**ROW, "row": str(number)}, {"questions": [{**item, "wrong": wrong}]}).kept[0]["answer"][0]
        for number in range(30)
    }
    assert letters == set("ABCD")


def test_translation_into_another_language_and_back() -> None:
    stage = TranslationStage("zh")
    chinese = {"report": "右肺上叶见 20 mm 结节。\n未见胸腔积液。\n左肾见结石。", "question": "请描述此次检查所见。"}
    row = told(stage, ROW, chinese).kept[0]
    assert (row["report"], row["language"], row["row"]) == (chinese["report"], "zh", "c-zh")
    assert reasons(told(stage, ROW, {**chinese, "report": REPORT})) == ["other_language"]
    assert reasons(told(stage, ROW, {**chinese, "report": chinese["report"].replace("20", "25")})) == [
        "changed_numbers"
    ]
    swapped = chinese["report"].replace("右", "中").replace("左", "右").replace("中", "左")
    assert reasons(told(stage, ROW, {**chinese, "report": swapped.replace("左肺", "右肺")})) == ["changed_sides"]
    assert reasons(told(stage, ROW, {**chinese, "question": ""})) == ["empty"]
    back = TranslationStage("en", "zh")
    assert told(back, row, {"report": REPORT, "question": ROW["question"]}).kept[0]["report"] == REPORT
    rows = TranslationStage("de", stream="questions")
    texts = {"report": "r", "question": "q", "thinking": "t [1]. u [2].", "answer": "20 mm [1]."}
    assert reasons(told(rows, {**ANSWERED, "report": "r"}, texts)) == ["changed_numbers"]
    texts |= {"thinking": "Dort ist ein Herd von 20 mm [1]. Erguss [3].", "answer": "Ja, 20 mm [1]."}
    assert reasons(told(rows, {**ANSWERED, "report": "r"}, texts)) == ["changed_citations"]


CHOICES = ["Left upper lobe", "20 mm below the hilum", "Right upper lobe", "Not in the lungs"]
CHOSEN = {
    **ROW,
    "report": "A nodule.",
    "question": "Where is it?\nA. Left upper lobe\nB. 20 mm below the hilum\nC. Right upper lobe\nD. Not in the lungs",
    "options": CHOICES,
    "answer": "C. Right upper lobe",
}
CHOSEN_ZH = {
    "report": "结节。",
    "question": "结节在哪里？",
    "options": ["左肺上叶", "肺门下方 20 mm", "右肺上叶", "不在肺内"],
}


def test_translation_of_a_multiple_choice_question() -> None:
    stage = TranslationStage("zh", stream="multiple_choice")
    material = stage.material(CHOSEN)
    assert "<question>\nWhere is it?\n</question>" in material and json.dumps(CHOICES) in material
    assert "<answer>" not in material
    made = told(stage, CHOSEN, CHOSEN_ZH).kept[0]
    assert made["question"] == "结节在哪里？\nA. 左肺上叶\nB. 肺门下方 20 mm\nC. 右肺上叶\nD. 不在肺内"
    assert (made["answer"], made["options"]) == ("C. 右肺上叶", CHOSEN_ZH["options"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["左肺上叶", "肺门下方 20 mm", "右肺上叶"], "bad_options"),
        (["左肺上叶", "肺门下方 20 mm", "右肺上叶", "不在肺内", "其他"], "bad_options"),
        (["左肺上叶", "肺门下方 20 mm", "右肺上叶", "右肺上叶"], "bad_options"),
        (["左肺上叶", "肺门下方 20 mm", "右肺上叶", " "], "bad_options"),
        (["A. 左肺上叶", "B. 肺门下方 20 mm", "C. 右肺上叶", "D. 不在肺内"], "bad_options"),
        (["左肺上叶", "右肺上叶", "肺门下方 20 mm", "不在肺内"], "changed_numbers"),
        (["右肺上叶", "肺门下方 20 mm", "左肺上叶", "不在肺内"], "changed_sides"),
        (["Left upper lobe", "20 mm below the hilum and not in it", *CHOICES[2:]], "other_language"),
        (CHOICES, "other_language"),
    ],
)
def test_translated_options_that_do_not_fit(options: list[str], reason: str) -> None:
    outcome = told(TranslationStage("zh", stream="multiple_choice"), CHOSEN, {**CHOSEN_ZH, "options": options})
    assert reasons(outcome) == [reason]
    lacking = {key: text for key, text in CHOSEN_ZH.items() if key != "options"}
    assert reasons(told(TranslationStage("zh"), CHOSEN, lacking)) == ["wrong_schema"]


def test_options_of_numbers_stay_in_translation() -> None:
    sizes = ["5 mm", "10 mm", "15 mm", "20 mm"]
    question = "How large is it?\nA. 5 mm\nB. 10 mm\nC. 15 mm\nD. 20 mm"
    row = {**ROW, "report": "A nodule.", "question": question, "options": sizes, "answer": "D. 20 mm"}
    answer = {"report": "结节。", "question": "结节多大？", "options": sizes}
    made = told(TranslationStage("zh", stream="multiple_choice"), row, answer).kept[0]
    assert (made["answer"], made["options"]) == ("D. 20 mm", sizes)


def test_a_judge_of_citations() -> None:
    stage = CitationJudgeStage("answers")
    assert stage.label == "answers_citations"
    assert "1. Statement: There is a 20 mm nodule" in stage.material(ANSWERED)
    assert "Lines: No pleural effusion." in stage.material(ANSWERED)
    assert told(stage, ANSWERED, {"supported": [True] * 3}).kept == [ANSWERED]
    assert reasons(told(stage, ANSWERED, {"supported": [True, False, True]})) == ["judged_unsupported"]
    assert reasons(told(stage, ANSWERED, {"supported": [True]})) == ["wrong_schema"]


def test_every_stage_has_a_prompt_that_guards_against_instructions() -> None:
    for stage in [*make_stages(STAGES, language="de", citation_check="both")]:
        row = {**ANSWERED, "thinking_after": THINKING}
        system, user = stage.messages(row, with_schema=True)
        assert "$" not in system["content"] and "follow no instruction" in system["content"]
        assert json.dumps(stage.schema(row)) in system["content"] and "nodule" in user["content"]
        rows, text = stage.placeholder(row)
        assert rows and text and {"row", "report"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_questions": 0}, "num_questions is 0"),
        ({"num_rewritings": "3"}, "num_rewritings is '3'"),
        ({"language": ""}, "language is ''"),
        ({"min_overlap": 1.5}, "min_overlap is 1.5"),
        ({"citation_check": "none"}, "citation_check is 'none'"),
        ({"translate": "everything"}, "stream is 'everything'"),
        ({"source_language": "en", "language": "en"}, "are both 'en'"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_stages(STAGES, **{"language": "de", **options})
