"""Door of the kernel that decodes qcow2's tables."""

from __future__ import annotations

from dataplane._native.cluster_map import ClusterMap

__all__ = ["ClusterMap"]
