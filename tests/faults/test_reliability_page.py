"""The table of docs/reliability.md has a row for each fault of the suite, and nothing else."""

import pytest
from conftest import FOLDER, PAGE
from fault_table import faults_in
from long_run import LONG


@pytest.mark.skipif(LONG, reason="this run writes the table")
def test_the_page_has_the_faults_of_the_suite(request):
    files = {item.path for item in request.session.items if item.path.parent == FOLDER}
    if files != set(FOLDER.glob("test_*.py")):
        pytest.skip("only a part of the suite was asked for")
    properties = [dict(item.user_properties) for item in request.session.items]
    suite = {found["fault"] for found in properties if "fault" in found}
    assert suite == set(faults_in(PAGE.read_text().splitlines())), "run `make faults`"
