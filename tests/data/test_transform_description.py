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

import functools
import json
import operator
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, CropForegroundd, Lambda, Lambdad, ScaleIntensityRanged, Spacingd

from monai_u2.data.transform_description import describe_transforms, hash_description
from monai_u2.exceptions import InputError


def key(*transforms: Any) -> str:
    return hash_description(describe_transforms(transforms))


def crop(threshold: float) -> CropForegroundd:
    return CropForegroundd("image", "image", select_fn=functools.partial(operator.lt, threshold))


def adding(number: float) -> Lambda:
    return Lambda(lambda x: x + number)


class Settings:
    def __init__(self, **settings: Any) -> None:
        self.__dict__ |= settings


PAIRS = {
    "a number": lambda x: ScaleIntensityRanged("image", -1000, 1000 + x, 0, 1),
    "a number in a nested transform": lambda x: Compose([Compose([Spacingd("image", (1, 1, 1 + x))])]),
    "an argument of a partial function": crop,
    "a closure": adding,
    "a default": lambda x: Lambda(lambda y, z=x: y + z),
    "a constant of a lambda": lambda x: Lambda([lambda y: y + 1, lambda y: y + 2][x]),
    "an operation of a lambda": lambda x: Lambda([lambda y: y + 1, lambda y: y - 1][x]),
    "what an inner function does": lambda x: Lambda([lambda y: [z + 1 for z in y], lambda y: [z - 1 for z in y]][x]),
    "an array": lambda x: Settings(table=np.arange(100) + x),
    "a tensor": lambda x: Settings(table=torch.arange(100.0) + x),
    "a set": lambda x: Settings(names={"a", "b", str(x)}),
    "the order of a dictionary": lambda x: Settings(index=dict([("a", 1), ("b", 2)][:: 1 - 2 * x])),
    "a type": lambda x: Settings(dtype=[torch.float32, torch.float64][x]),
    "a class": lambda x: [Settings(), adding(0)][x],
    "a key": lambda x: Lambdad(["image", "mask"][x], abs),
    "a function": lambda x: Lambda([np.abs, torch.abs, operator.neg, own][x]),
    "a bound method": lambda x: Lambda(Settings(a=x).__init__),
    "one more transform": lambda x: Compose([adding(0)] * (1 + x)),
    "an integer and a boolean": lambda x: Settings(a=[1, True][x]),
}


@pytest.mark.parametrize("what", PAIRS)
def test_a_change_changes_the_description(what: str) -> None:
    make = PAIRS[what]
    assert key(make(0)) == key(make(0))
    assert key(make(0)) != key(make(1))


def test_the_same_in_every_process() -> None:
    """Whatever the seed of Python's hashes, from which sets have their order."""
    code = """
from monai.transforms import Compose, Lambda, LoadImaged, Orientationd, Spacingd
from monai_u2.data.transform_description import describe_transforms, hash_description
steps = [LoadImaged("image"), Compose([Orientationd("image", "SPL")]), Spacingd("image", (1, 1, 2))]
steps += [Lambda(lambda x: x in {"a", "b", "c"})]
steps[-1].names = {"image", "mask", "truth"}
print(hash_description(describe_transforms(steps)))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        for environment in ({"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)} for seed in "12")
    ]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64


@pytest.mark.parametrize("expression", ["$lambda x: x > @threshold", "$functools.partial(operator.lt, @threshold)"])
def test_a_reference_of_a_config_is_seen(expression: str) -> None:
    """Also in a lambda, which looks it up only when it is called."""
    keys = []
    for threshold, other in ((-200, 0), (-300, 0), (-200, 1)):
        parser = ConfigParser(
            {
                "imports": ["$import functools", "$import operator"],
                "threshold": threshold,
                "other": other,
                "crop": {"_target_": "CropForegroundd", "keys": "i", "source_key": "i", "select_fn": expression},
            }
        )
        parser.get_parsed_content("other")
        keys.append(key(parser.get_parsed_content("crop")))
    assert keys[0] != keys[1] and keys[0] == keys[2]


@pytest.mark.parametrize("block", ["load_transforms", "image_transforms", "target_transforms"])
def test_every_setting_of_the_bundle_is_seen(bundle: Path, block: str) -> None:
    """Each number and text of the cached blocks, and of what they refer to."""

    def parsed(**changes: Any) -> str:
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / "sft.json")
        parser.update({"bundle_root": str(bundle), **changes})
        return key(*parser.get_parsed_content(block))

    changes: dict[str, dict[str, Any]] = {
        "load_transforms": {"series_uid": "1.2", "load_transforms#3#axcodes": "RAS", "load_transforms#4#atol": 0.1},
        "image_transforms": {
            "spacing": [5.0, 4.0, 4.5],
            "foreground_hu": -250.0,
            "hu_window": [-1000.0, 900.0],
            "slab_size": [16, 64, 64],
            "max_slabs": 7,
            "image_transforms#0#mode": ["nearest", "nearest"],
            "image_transforms#0#dtype": ["$torch.float64", "$torch.float64"],
            "image_transforms#1#margin": 1,
            "image_transforms#2#clip": False,
        },
        "target_transforms": {"patch_size": [8, 8, 4], "finding_labels": ["a", "b"]},
    }
    keys = {parsed(**{name: value}) for name, value in changes[block].items()}
    assert len(keys | {parsed()}) == len(changes[block]) + 1
    assert parsed() == parsed(seed=3, batch_size=1)


def test_code_is_seen_but_not_its_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a module that belongs to no package, and of a module that it imports."""
    (tmp_path / "own_steps").mkdir()
    texts = {"constants": "OFFSET = 1\n", "steps": '"""Steps."""\nfrom .constants import OFFSET\n\n\nclass Add: ...\n'}
    code = "import own_steps.steps\nfrom monai_u2.data.transform_description import *\n"
    code += "print(hash_description(describe_transforms([own_steps.steps.Add()])))"

    def described(name: str, text: str) -> str:
        for module, content in {**texts, name: text, "__init__": ""}.items():
            (tmp_path / "own_steps" / f"{module}.py").write_text(content)
        environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    as_it_was = described("steps", texts["steps"])
    assert described("steps", '"""Other words."""\n' + texts["steps"].split("\n", 1)[1] + "# a comment\n") == as_it_was
    assert described("steps", texts["steps"].replace("...", "size = 3")) != as_it_was
    assert described("constants", "OFFSET = 2\n") != as_it_was


def test_packages_are_named_by_version() -> None:
    code = describe_transforms([crop(0)])["code"]
    assert set(code) == {"monai", "numpy"} or set(code) == {"monai"}
    assert any(name.startswith("monai_u2.transforms") for name in describe_transforms([own()])["code"])


def own() -> Any:
    from monai_u2.transforms import FitToSlabs

    return FitToSlabs()


def test_is_plain_json() -> None:
    description = describe_transforms([Spacingd("image", (1, 1, float("nan"))), crop(0), adding(1), own()])
    assert hash_description(json.loads(json.dumps(description))) == hash_description(description)


def test_an_object_that_holds_itself() -> None:
    thing = Settings(a=1)
    thing.me = [thing]
    assert key(thing) == key(thing)


def test_what_cannot_be_described_is_named() -> None:
    import threading

    with pytest.raises(InputError, match=r"Settings.lock is a _thread.lock, which can't be described"):
        describe_transforms([Settings(lock=threading.Lock())])
