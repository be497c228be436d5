"""Door of the kernel that decodes the block tables of VDI, VHDX and VHD."""

from __future__ import annotations

from dataplane._native.block_map import add_vdi_blocks, add_vhd_sectors, add_vhdx_blocks, vhd_blocks

__all__ = ["add_vdi_blocks", "add_vhd_sectors", "add_vhdx_blocks", "vhd_blocks"]
