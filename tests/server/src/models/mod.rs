// SPDX-License-Identifier: GPL-2.0

//! The devices.

pub mod audio;
pub mod gadget_zero;
pub mod keyboard;
pub mod null;
pub mod scsi;
pub mod storage;
