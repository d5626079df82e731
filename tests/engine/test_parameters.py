"""A sampling parameter is declared once; what carries it on follows from that."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import headrace
from headrace.engine import SamplingParams
from headrace.engine.parameters import COLUMNS
from headrace.kernels.structs import SampleNeeds, SamplingTable
from headrace.schemas.wire import WireJob

SOURCE = Path(headrace.__file__).parent
NAMES = [field.name for field in fields(SamplingParams)]


def test_every_parameter_is_a_field_of_jobs_by_the_same_name_and_default():
    assert set(NAMES) <= set(WireJob.model_fields)
    plain, ours = WireJob.make(model="m", prompt="x"), SamplingParams()
    differ = {name for name in NAMES if getattr(plain, name) != getattr(ours, name)}
    assert differ == {"seed"}  # which follows from the job's id


def test_every_column_is_one_of_the_kernels_table():
    assert COLUMNS.keys() <= {field.name for field in fields(SamplingTable)}
    works = {column.work for column in COLUMNS.values()} - {None}
    assert works <= {field.name for field in fields(SampleNeeds)}


@pytest.mark.parametrize(("name", "files"), [("allowed_token_ids", 4), ("min_p", 9)])
def test_a_parameter_stands_in_few_files(name: str, files: int):
    folders = [SOURCE / folder for folder in ("schemas", "producers", "workers", "engine", "kernels")]
    naming = [
        path.relative_to(SOURCE).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if re.search(rf"\b{name}\b", path.read_text())
    ]
    assert len(naming) <= files, naming
