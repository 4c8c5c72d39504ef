"""Reports of tests as a process of pytest-xdist can send them: a name that is no UTF-8 would end the whole run."""

from __future__ import annotations

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    return sendable((yield))


def sendable(value):
    """The same value, with what cannot be encoded written as its escape sequence."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {sendable(key): sendable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(sendable, value))
    return value
