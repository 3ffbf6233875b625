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

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "AnswerScores": "vqa",
    "BertScore": "bertscore",
    "CaseStatistic": "significance",
    "ChoiceAccuracy": "vqa",
    "Collapse": "collapse",
    "CollapseMetric": "collapse",
    "Comparison": "significance",
    "CorpusBleu": "text",
    "FindingCRG": "crg",
    "FindingF1": "findings",
    "GreenScore": "green",
    "GreenScores": "green",
    "Interval": "significance",
    "MatchedCases": "cases",
    "MeanReportScore": "report_metric",
    "ReportClassifier": "classifier",
    "ReportMetric": "report_metric",
    "bleu_scores": "text",
    "bootstrap_interval": "findings",
    "bootstrap_intervals": "significance",
    "choice_scores": "vqa",
    "collapse_diagnostics": "collapse",
    "compare_runs": "significance",
    "corpus_bleu": "text",
    "corpus_bleu_statistics": "text",
    "crg_score": "crg",
    "crg_statistic": "crg",
    "f1_statistic": "findings",
    "finding_table": "findings",
    "findings_per_normal_case": "collapse",
    "green_scores": "green",
    "holm": "significance",
    "label_f1": "findings",
    "label_f1_statistics": "findings",
    "label_reports": "labels",
    "macro_f1": "findings",
    "match_cases": "cases",
    "mean_statistic": "significance",
    "meteor_scores": "text",
    "micro_f1": "findings",
    "open_scores": "vqa",
    "paper_bleu1": "text",
    "parse_choice": "vqa",
    "read_label_table": "labels",
    "rouge_scores": "text",
    "text_scores": "text",
    "word_f1": "word_overlap",
    "word_f1_of_cases": "word_overlap",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
