"""The process that looks after the workers: it forks them, heals, reloads, recycles and stops."""

from __future__ import annotations

from penstock.supervisor.launch import Launch
from penstock.supervisor.supervisor import Supervisor

__all__ = ["Launch", "Supervisor"]
