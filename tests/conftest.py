"""Fixtures that many tests share; each is made once a run."""

from __future__ import annotations

import os

# libgomp reads it when torch is imported. Its threads otherwise spin at barriers: 100 times slower where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
