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

"""Reading a model's JSON by its schema; nothing is guessed or mended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from monai_u2.chat_client import ChatAnswer
from monai_u2.synthesis.rules import Problem

TEXT: dict[str, Any] = {"type": "string"}
YES_NO: dict[str, Any] = {"type": "boolean"}
NUMBER: dict[str, Any] = {"type": "integer"}

_TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict}
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


def object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def array_schema(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def parse_answer(answer: ChatAnswer, schema: Mapping[str, Any]) -> tuple[dict[str, Any], Problem | None]:
    """Read an answer.

    Args:
        answer: what the server answered; JSON alone, or in one fenced block.
        schema: as :func:`object_schema` makes it.

    Returns:
        the object, {} where there is none; and what is wrong with it, None for nothing.
    """
    if answer.text is None or answer.finish_reason == "content_filter":
        return {}, Problem("refusal")
    if answer.finish_reason == "length":
        return {}, Problem("truncated", "it reached the largest number of tokens")
    text = answer.text.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        content = json.loads(fenced[1] if fenced else text)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not written
    except json.JSONDecodeError as error:
        if text.startswith("{") and (error.pos >= len(text) or error.msg.startswith("Unterminated string")):
            return {}, Problem("truncated", "its JSON breaks off")
        return {}, Problem("not_json", error.msg)
    except (ValueError, RecursionError) as error:
        return {}, Problem("not_json", type(error).__name__)
    wrong = _mismatch(content, schema, "the answer")
    return ({}, Problem("wrong_schema", wrong)) if wrong else (content, None)


def _mismatch(value: Any, schema: Mapping[str, Any], name: str) -> str:
    """Return what of a value isn't as the schema says, "" for nothing."""
    kind = _TYPES[schema["type"]]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{name} is no {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{name} is none of {', '.join(schema['enum'])}"
    if kind is list:
        return next(filter(None, (_mismatch(item, schema["items"], f"an item of {name}") for item in value)), "")
    if kind is dict:
        odd = sorted(value.keys() ^ schema["properties"].keys())
        if odd:
            return f"{name} lacks or adds {', '.join(odd)}"
        return next(filter(None, (_mismatch(value[key], schema["properties"][key], key) for key in value)), "")
    return ""
