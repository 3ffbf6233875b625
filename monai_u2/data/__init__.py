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
    "CT_RATE_LABELS": "mixture",
    "LANGUAGES": "language",
    "QUESTION_KINDS": "records",
    "CTReader": "ct_reader",
    "DATASETS": "prepare",
    "HEADER_KEYS": "records",
    "CacheFolder": "cache_folder",
    "CachedDataset": "cached_dataset",
    "Journal": "journal",
    "MicroBatches": "micro_batches",
    "RecordedCases": "label_cases",
    "ResumableBatchSampler": "sampler",
    "SeededDataset": "seeded_dataset",
    "abdomen_atlas": "abdomen_atlas",
    "amos_mm": "amos_mm",
    "are_label_cases": "label_cases",
    "check_batch_size": "mixture",
    "check_finding_labels": "mixture",
    "check_mixture": "mixture",
    "check_records": "check",
    "check_training_cases": "mixture",
    "collate_reports": "collate",
    "conversation_lengths": "mixture",
    "ct_rate": "ct_rate",
    "describe_transforms": "transform_description",
    "hash_description": "transform_description",
    "count_words": "language",
    "detect_language": "language",
    "generate_phantoms": "phantom.dataset",
    "group_by_image": "records",
    "iterate_records": "records",
    "join_checks": "check",
    "is_dicom": "dicom",
    "list_series": "dicom",
    "load_pairs": "pairs",
    "load_records": "records",
    "load_text_tokenizer": "text_tokenizer",
    "m3d_cap": "m3d_cap",
    "parse_findings": "phantom.parsing",
    "phantom": "phantom",
    "prepare_dataset": "prepare",
    "plot_statistics": "statistics",
    "presence_questions": "mixture",
    "process_shard": "shards",
    "read_headers": "dicom",
    "read_series": "dicom",
    "select_ct_series": "dicom_study",
    "record_statistics": "statistics",
    "split_records": "split",
    "train_text_tokenizer": "text_tokenizer",
    "validation_dataset": "label_cases",
    "validation_reports": "mixture",
    "with_reference": "pairs",
    "write_records": "records",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
