"""Fixtures that many tests share; each is made once a run."""

from __future__ import annotations

import pytest
